"""Names in recipes and the objects that they stand for."""

from typing import Any, get_args

import pytest
import torch

from sfumato import registry
from sfumato.diffusion.schedules import Flow, Schedule
from sfumato.errors import UserError
from sfumato.settings import learning, networks, objectives
from sfumato.settings.base import Settings
from sfumato.settings.sampling import Sampling

# Where the settings list the words that a registry resolves.
WORDS: dict[str, tuple[type[Settings], str, Any]] = {
    "schedule": (learning.Diffusion, "schedule", registry.SCHEDULES),
    "parameterization": (learning.Diffusion, "parameterization", registry.PARAMETERIZATIONS),
    "weight": (objectives.SimpleObjective, "weight", registry.WEIGHTS),
    "solver": (Sampling, "solver", registry.SOLVERS),
    "grid": (Sampling, "grid", registry.GRIDS),
}


@pytest.mark.parametrize("name", WORDS)
def test_every_word_that_a_recipe_may_say_has_an_object_and_the_other_way_round(name):
    group, field, entries = WORDS[name]
    assert set(get_args(group.model_fields[field].annotation)) == set(entries)


def kinds_of(union: Any) -> set[str]:
    return {get_args(kind.model_fields["kind"].annotation)[0] for kind in get_args(get_args(union)[0])}


def test_every_kind_of_objective_and_of_times_has_an_object():
    assert kinds_of(objectives.AnyObjective) == {*registry.OBJECTIVES, "own"}
    assert kinds_of(objectives.AnyTimes) == set(registry.TIME_LAWS)


def test_every_network_of_the_recipes_has_a_class():
    kinds = {get_args(kind.model_fields["kind"].annotation)[0] for kind in (networks.UNet, networks.DiT)}
    assert kinds == set(registry.NETWORKS)


@pytest.mark.parametrize("name", registry.SCHEDULES)
def test_schedules_are_made_without_arguments(name):
    assert isinstance(registry.resolve("diffusion.schedule", registry.SCHEDULES, name)(), Schedule)


@pytest.mark.parametrize("name", registry.PARAMETERIZATIONS)
def test_parameterizations_give_two_coefficients(name):
    one = torch.tensor(0.6), torch.tensor(0.8)
    assert len(registry.PARAMETERIZATIONS[name](0.5)(*one)) == 2


@pytest.mark.parametrize("name", registry.WEIGHTS)
def test_weights_are_positive_numbers(name):
    assert registry.WEIGHTS[name](0.5)(torch.tensor(0.6), torch.tensor(0.8)) > 0


@pytest.mark.parametrize("name", registry.TIME_LAWS)
def test_time_laws_stay_within_the_process(name):
    u = torch.linspace(0.001, 0.999, 99)
    t, weights = registry.TIME_LAWS[name](Flow(), objectives.LogitNormalTimes(), 10).draw(u)
    assert t.shape == weights.shape == u.shape and (weights == 1).all() and (t >= 0).all() and (t <= 1).all()


@pytest.mark.parametrize("name", registry.GRIDS)
def test_grids_run_from_noise_to_data(name):
    times = registry.GRIDS[name](Flow(), 7)
    assert times.shape == (8,) and times[0] == 1 and times[-1] == 0


def test_an_unknown_name_is_refused_with_the_field_the_value_and_the_nearest():
    with pytest.raises(UserError) as caught:
        registry.resolve("sampling.solver", registry.SOLVERS, "dpm+2m")
    assert "sampling.solver" in caught.value.message
    assert "'dpm+2m'" in caught.value.message
    assert "'dpm++2m'" in caught.value.message
    assert all(name in caught.value.fix for name in registry.SOLVERS)


def test_no_name_is_an_import_path():
    with pytest.raises(UserError):
        registry.resolve("network.kind", registry.NETWORKS, "os.system")


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize(
    ("solver", "grid"),
    [(solver, "log-snr") for solver in registry.SOLVERS] + [("unipc", grid) for grid in registry.GRIDS],
)
def test_a_model_draws_with_every_solver_and_on_every_grid(tiny, solver, grid, steps):
    model = tiny("class")
    settings = model.sampling(solver=solver, grid=grid, steps=steps, guidance=2)
    *_, last = model.steps(["cat"], [7], settings)
    assert last.index == steps and last.x.isfinite().all() and last.x.std() > 0
