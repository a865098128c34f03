"""Recipes: published trainings as values of flags."""

import sys
from unittest import mock

import pytest

import flaxarch
from train import __main__ as command
from train.config import Config, ConfigError, validate
from train.recipes import RECIPES, recipe_config


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_a_configuration_of_a_network_that_is_here(name: str):
    config = recipe_config(name)
    validate(config)
    assert config.recipe == name
    assert config.model in flaxarch.list_models()
    model = flaxarch.create(config.model)
    assert config.survival_prob is None or hasattr(model, "survival_prob")


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_tells_its_source_and_result_and_sets_no_default_again(name: str):
    recipe = RECIPES[name]
    assert recipe.source
    assert recipe.published or "here" in recipe.source
    defaults = vars(Config())
    same = [key for key, value in recipe.flags.items() if value == defaults[key]]
    of_the_text = {"model", "data", "epochs", "rms_decay", "decay_rate", "decay_epochs"}
    assert set(same) <= of_the_text | {"weight_decay", "batch_size"}  # these change a value shared by recipes


def configured(*words: str) -> Config:
    """What the command line makes of its words."""
    with mock.patch.object(sys, "argv", ["train", *words]), mock.patch.object(command, "_run") as run:
        run.return_value = 0
        assert command.main() == 0
    return run.call_args.args[0]


@pytest.mark.parametrize("words", [("--recipe", "zagoruyko2016_wrn"), ("--recipe=zagoruyko2016_wrn",)])
def test_flags_given_stand_and_the_others_are_the_recipes(words: tuple[str, ...]):
    config = configured("--epochs", "3", *words)
    assert (config.model, config.step_factor, config.epochs) == ("wrn_28_10", 0.2, 3)
    assert config.recipe == "zagoruyko2016_wrn"


def test_without_a_recipe_the_defaults_stand():
    assert configured() == Config()


def test_unknown_recipe_suggests_the_nearest():
    with pytest.raises(ConfigError, match="no recipe 'he2015'; the nearest is 'he2015_cifar'"):
        recipe_config("he2015")
