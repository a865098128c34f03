"""The examples that a configuration trains on, and those that it measures itself by."""

from train.config import Config, ConfigError
from train.data import DataError, Dataset, Sampling, Source, divide, fitted, open_dataset


def open_examples(config: Config, data: Dataset | None = None) -> Dataset:
    """The data set that `config` names, or `data` in its place, divided as `config` says.

    Raises:
        ConfigError: there is less than one batch to train on.
        DataError: the data cannot be read, or there is nothing to measure by.
    """
    if data is None:
        data = open_dataset(
            config.data,
            config.data_dir,
            image_size=config.image_size,
            skip_unreadable=config.skip_unreadable,
            without_test=config.validation_share > 0,
        )
    else:
        data = fitted(data, config.data, config.image_size)
        if not len(data.test) and not config.validation_share:
            raise DataError(f"{config.data} has no test examples; give some, or a validation_share above 0")
    data = divide(
        data,
        validation_share=config.validation_share,
        train_share=config.train_share,
        seed=config.seed,
    )
    if config.batch_size > len(data.train):
        raise ConfigError(
            f"batch_size {config.batch_size} is above the {len(data.train)} training images; "
            "an update takes a full batch"
        )
    return data


def measured_by(data: Dataset) -> tuple[str, Source]:
    """What evaluations during a run are of, and in words: validation examples, or those of the test."""
    return ("test", data.test) if data.validation is None else ("validation", data.validation)


def sampling(config: Config) -> Sampling:
    """Which examples an epoch holds."""
    return Sampling(config.balanced_classes, config.repeated_augmentation)


def in_words(data: Dataset) -> str:
    """How many examples of each kind there are."""
    counts = {"training": data.train, "validation": data.validation, "test": data.test}
    words = [f"{len(source)} {name}" for name, source in counts.items() if source is not None and len(source)]
    return f"{', '.join(words[:-1])} and {words[-1]} images"


def left_out(data: Dataset) -> list[str]:
    """A line on the images that cannot be read, if there are any."""
    names = [*data.train.unreadable, *data.test.unreadable]
    some = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return [f"left out, for they cannot be read: {len(names)} image(s): {some}"] if names else []
