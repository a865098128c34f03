"""Reads pickles without running them.

The standard library's `pickletools` parses the opcodes, of protocols 0 to 5, and describes them; they are
carried out here. A pickle can name any function of any module: here a name is looked up in a table of ours
(`constructors.py`), and one that is not in it ends the reading.

The byte strings of Python 2 come out as latin-1 text, of which `.encode("latin-1")` gives back the bytes.
"""

import pickletools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any, BinaryIO, TypeVar, cast

MAX_OPCODES = 2**20  # 10,000 tensors take half a million; one takes some microseconds and up to 200 bytes
MAX_LINE = 2**24  # protocol 0 ends arguments by a line end, of which a file of tensors may hold none
COPY_SLACK = 2**20  # see `_Machine.charge`

T = TypeVar("T")
Constructors = Mapping[str, Callable[..., Any] | None]


class CheckpointError(ValueError):
    """Says in one sentence what is wrong with a file, and where."""


@dataclass(frozen=True)
class Global:
    """A function or class that a pickle names."""

    name: str  # module and name, as in "torch.FloatStorage"
    make: Callable[..., Any] | None  # what is called in its place; None: referred to only, as a dtype is


class Unbuilt(ABC):
    """Stands for an object whose pickle describes it only afterwards, by the opcode BUILD."""

    memo_index: int | None = None

    @abstractmethod
    def build(self, state: Any) -> Any:
        """Returns the object itself."""


def unpickle(
    stream: BinaryIO,
    constructors: Constructors,
    persistent_load: Callable[[Any], Any] | None = None,
    what: str = "pickle",
) -> Any:
    """Reads one pickle from a seekable stream, which is left just behind it.

    Args:
        constructors: what may stand for each global; whatever else the pickle names is refused. A constructor
            raises `CheckpointError`, without the place, where its arguments are no good.
        persistent_load: given the id of an object that is stored outside of the pickle, returns the object.
        what: the file, for error messages.
    """
    reader = _Reader(stream)
    machine = _Machine(reader, constructors, persistent_load)
    position = reader.start
    try:
        # genops wants no more of a stream than read, readline and tell
        for count, (opcode, arg, _) in enumerate(pickletools.genops(cast(BinaryIO, reader))):
            if count == MAX_OPCODES:
                raise CheckpointError(f"the pickle has more than {MAX_OPCODES:,} opcodes")
            machine.step(opcode.name, arg)
            position = reader.tell()
        return machine.stack.pop()
    except CheckpointError as error:
        raise CheckpointError(f"{what}, byte {position}: {error}") from error.__cause__
    except Exception as error:  # of any kind: damage can hand any value to any opcode
        raise CheckpointError(f"{what}, byte {position}: the pickle is damaged or cut short here") from error


def length(value: Any) -> int:
    """Checks an integer that a file gives as a size or a position."""
    # An int of other size may be too long to be shown, or to be computed with in good time.
    if type(value) is not int or not 0 <= value < 2**63:
        raise CheckpointError("a size or position is not an integer from 0 to 2**63 - 1")
    return value


class _Reader:
    """The rest of a stream, which takes no more memory than it has bytes, however many a pickle asks for."""

    def __init__(self, stream: BinaryIO):
        self.stream = stream
        self.start = self.position = stream.tell()
        self.end = stream.seek(0, 2)
        stream.seek(self.start)

    def tell(self) -> int:
        return self.position  # to ask the stream, once an opcode, takes most of the time

    def read(self, size: int) -> bytes:
        return self._passed(self.stream.read(min(size, self.end - self.position)))

    def readline(self) -> bytes:
        return self._passed(self.stream.readline(MAX_LINE))

    def _passed(self, content: bytes) -> bytes:
        self.position += len(content)
        return content


# Opcodes that push the argument which stands behind them: the type of what they push is known.
_LITERALS = frozenset(
    opcode.name
    for opcode in pickletools.opcodes
    if opcode.arg and opcode.stack_after and opcode.stack_after[0] is not pickletools.anyobject
)


class _Machine:
    """The pickle machine: a stack of values, cut at marks, and a memo of values to push again."""

    def __init__(
        self, reader: _Reader, constructors: Constructors, persistent_load: Callable[[Any], Any] | None
    ):
        self.reader = reader
        self.constructors = constructors
        self.persistent_load = persistent_load
        self.stack: list[Any] = []  # since the last mark
        self.below: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}
        self.copied = 0

    def step(self, opcode: str, arg: Any) -> None:
        stack = self.stack
        if opcode in _LITERALS:
            stack.append(arg)
            return
        match opcode:
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                self.memoize(arg)
            case "MEMOIZE":
                self.memoize(len(self.memo))
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(self.memo[arg])

            case "MARK":
                self.below.append(stack)
                self.stack = []
            case "POP" if stack:
                stack.pop()
            case "POP" | "POP_MARK":
                self.since_mark()
            case "DUP":
                stack.append(stack[-1])

            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode == "NEWTRUE")
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(opcode[-1])
                if len(stack) < size:
                    raise IndexError
                stack[-size:] = [tuple(stack[-size:])]
            case "TUPLE":
                self.push(tuple(self.since_mark()))

            case "EMPTY_LIST":
                stack.append([])
            case "LIST":
                self.push(self.since_mark())
            case "APPEND":
                value = stack.pop()
                of_type(list, stack[-1]).append(value)
            case "APPENDS":
                values = self.since_mark()
                of_type(list, self.stack[-1]).extend(values)

            case "EMPTY_DICT":
                stack.append({})
            case "DICT":
                self.push(_set_items({}, self.since_mark()))
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _set_items(stack[-1], [key, value])
            case "SETITEMS":
                values = self.since_mark()
                _set_items(self.stack[-1], values)

            case "EMPTY_SET":
                stack.append(set())
            case "ADDITEMS":
                values = self.since_mark()
                of_type(set, self.stack[-1]).update(plain_set(values))
            case "FROZENSET":
                self.push(frozenset(plain_set(self.since_mark())))

            case "GLOBAL":
                stack.append(self.find(arg))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(self.find(f"{of_type(str, module)} {of_type(str, name)}"))
            case "REDUCE" | "NEWOBJ":  # a call, or an instance of a class: the same to a constructor
                args, function = stack.pop(), stack.pop()
                stack.append(self.call(function, args))
            case "NEWOBJ_EX":
                keywords, args, function = stack.pop(), stack.pop(), stack.pop()
                if of_type(dict, keywords):
                    raise CheckpointError("the pickle makes an object by keyword arguments")
                stack.append(self.call(function, args))
            case "OBJ":
                function, *args = self.since_mark()
                self.push(self.call(function, tuple(args)))
            case "INST":
                self.push(self.call(self.find(arg), tuple(self.since_mark())))
            case "BUILD":
                state = stack.pop()
                self.build(state)
            case "PERSID":
                stack.append(self.find_outside(arg))
            case "BINPERSID":
                stack.append(self.find_outside(stack.pop()))

            case "PROTO":
                if arg > 5:
                    raise CheckpointError(f"pickle protocol {arg} is not known, only 0 to 5 are")
            case "FRAME" | "STOP":
                pass
            case _:  # EXT1, EXT2, EXT4, NEXT_BUFFER, READONLY_BUFFER
                raise CheckpointError(f"opcode {opcode} needs something that is not in the file")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def since_mark(self) -> list[Any]:
        values, self.stack = self.stack, self.below.pop()
        return values

    def memoize(self, index: int) -> None:
        value = self.stack[-1]
        self.memo[plain_key(length(index))] = value
        if isinstance(value, Unbuilt):
            value.memo_index = index

    def find(self, arg: str) -> Global:
        name = arg.replace(" ", ".", 1)  # pickletools joins module and name by a space
        if name not in self.constructors:
            shown = repr(name[:100])
            raise CheckpointError(f"the pickle asks for {shown}, and only tensors and plain data are read")
        return Global(name, self.constructors[name])

    def find_outside(self, persistent_id: Any) -> Any:
        if self.persistent_load is None:
            raise CheckpointError("the pickle refers to an object that is not in it")
        return self.persistent_load(persistent_id)

    def call(self, function: Any, args: Any) -> Any:
        make = of_type(Global, function).make
        if make is None:
            raise CheckpointError(f"the pickle calls {function.name}, which is no function")
        self.charge(args)
        try:
            return make(*of_type(tuple, args))
        except CheckpointError as error:
            raise CheckpointError(f"{function.name}: {error}") from error.__cause__
        except Exception as error:  # of any kind: the arguments are whatever the file says
            raise CheckpointError(f"{function.name} is called with unusable arguments") from error

    def build(self, state: Any) -> None:
        target = self.stack[-1]
        if isinstance(target, Unbuilt):
            self.charge(state)
            self.stack[-1] = built = target.build(state)
            if target.memo_index is not None:
                self.memo[target.memo_index] = built
        else:
            of_type(
                dict, target
            )  # the attributes of an OrderedDict, as a state dict's `_metadata`: not needed

    def charge(self, values: Any) -> None:
        """Bounds what constructors copy: one memoized string, handed to a million calls, fills any memory."""
        sized = [v for v in values if isinstance(v, (str, bytes, bytearray, tuple, list, dict))]
        self.copied += len(values) + sum(map(len, sized))
        if self.copied > COPY_SLACK + 4 * (self.reader.tell() - self.reader.start):
            raise CheckpointError("the pickle would fill far more memory than it has bytes")


def of_type(kind: type[T], value: Any) -> T:
    """Checks a value that a file gives; no subclass of `kind` passes."""
    if type(value) is not kind:
        raise TypeError(f"{kind.__name__} expected, not {type(value).__name__}")
    return value


def plain_key(value: Any) -> Any:
    """Refuses keys whose hash can take for ever (nested tuples) or collide by design (huge integers)."""
    if type(value) in (str, bytes, bool, float, NoneType) or (type(value) is int and abs(value) < 2**60):
        return value
    kind = type(value).__name__
    raise CheckpointError(f"a key of type {kind} is not supported, only text and plain numbers are")


def plain_dict(items: Any = ()) -> dict[Any, Any]:
    """What `dict(items)` gives, from a dict or from pairs."""
    pairs = items.items() if type(items) is dict else items
    return {plain_key(key): value for key, value in pairs}


def plain_set(values: Iterable[Any] = ()) -> set[Any]:
    """What `set(values)` gives."""
    return {plain_key(value) for value in values}


def _set_items(target: Any, keys_and_values: list[Any]) -> dict[Any, Any]:
    pairs = zip(keys_and_values[::2], keys_and_values[1::2], strict=True)
    of_type(dict, target).update(plain_dict(pairs))
    return target
