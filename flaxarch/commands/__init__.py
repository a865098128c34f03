"""The commands of `flaxarch`: one file each, a frozen dataclass of its flags with a method `run`."""
