"""The comparison with GANs: its losses are those of the papers, its counts are right, its contestants are equal."""

import json
import math
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import softplus

GAN = Path(__file__).parents[1] / "benchmarks" / "gan"


def script(name: str) -> Any:
    """A script's module; the scripts import each other by name, as they do when they are run."""
    if str(GAN) not in sys.path:
        sys.path.insert(0, str(GAN))
    return import_module(name)


@pytest.fixture
def gans() -> Any:
    return script("gans")


@pytest.fixture
def grid25() -> Any:
    return script("grid25")


def linear(w):
    """A critic whose score is w . x."""
    return lambda x: x.flatten(1) @ w[:, None]


# --- losses ----------------------------------------------------------------------------------------------------------


def test_the_gradient_penalty_of_a_linear_critic_is_the_square_of_its_norm_less_one(gans):
    w = torch.tensor([3.0, -4.0])
    assert gans.gradient_penalty(linear(w), torch.randn(7, 2), torch.randn(7, 2)).item() == pytest.approx(16)


def test_the_gradient_penalty_is_taken_between_real_and_fake(gans):
    seen = []

    def critic(x):
        seen.append(x.detach())
        return x.sum(1, keepdim=True)

    gans.gradient_penalty(critic, torch.zeros(500, 3), torch.ones(500, 3))
    (x,) = seen
    assert (x.min(1).values == x.max(1).values).all(), "each datum is on the line"
    assert x.min() >= 0 and x.max() <= 1 and x.mean().item() == pytest.approx(0.5, abs=0.05)


def test_the_wasserstein_loss_of_a_linear_critic_has_its_closed_form(gans):
    w, real, fake = torch.tensor([3.0, -4.0]), torch.randn(9, 2), torch.randn(9, 2)
    expected = (fake.mean(0) - real.mean(0)) @ w + 10 * (5 - 1) ** 2
    assert gans.wasserstein_critic(10.0)(linear(w), real, fake).item() == pytest.approx(expected.item(), rel=1e-5)
    assert gans.wasserstein_generator(linear(w), real, fake).item() == pytest.approx(-(fake.mean(0) @ w).item())


def test_r1_and_r2_of_a_linear_critic_are_its_squared_norm(gans):
    w, x = torch.tensor([3.0, -4.0]), torch.randn(5, 2, requires_grad=True)
    assert gans.squared_gradient(linear(w)(x), x).tolist() == pytest.approx([25.0] * 5)


def test_the_relativistic_losses_at_equal_scores_are_log_2(gans):
    w, x = torch.tensor([3.0, -4.0]), torch.randn(6, 2)
    assert gans.relativistic_generator(linear(w), x, x).item() == pytest.approx(math.log(2))
    both = 0.5 / 2 * (25 + 25)  # of R1 and R2
    assert gans.relativistic_critic(0.5)(linear(w), x, x).item() == pytest.approx(math.log(2) + both, rel=1e-5)


def test_the_relativistic_losses_compare_real_with_fake_in_pairs(gans):
    w, real, fake = torch.tensor([1.0]), torch.tensor([[2.0], [0.0]]), torch.tensor([[0.0], [1.0]])
    expected = (softplus(torch.tensor(-2.0)) + softplus(torch.tensor(1.0))) / 2
    assert gans.relativistic_critic(0.0)(linear(w), real, fake).item() == pytest.approx(expected.item())
    opposite = (softplus(torch.tensor(2.0)) + softplus(torch.tensor(-1.0))) / 2
    assert gans.relativistic_generator(linear(w), real, fake).item() == pytest.approx(opposite.item())


def test_the_logistic_loss_of_an_undecided_critic_is_log_4_and_the_generators_does_not_saturate(gans):
    x = torch.zeros(3, 2)
    assert gans.logistic_critic(linear(torch.ones(2)), x, x).item() == pytest.approx(math.log(4))
    fake = torch.full((1, 1), -50.0, requires_grad=True)  # surely taken for fake
    gans.logistic_generator(linear(torch.ones(1)), fake, fake).backward()
    assert fake.grad is not None and fake.grad.item() == pytest.approx(-1.0)


def test_a_step_of_one_network_leaves_the_other_alone(gans):
    generator, critic = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)
    before = generator.weight.clone()
    optimizer = torch.optim.Adam(generator.parameters())
    loss = gans.wasserstein_generator(critic, torch.zeros(4, 2), generator(torch.randn(4, 2)))
    gans.descend(loss, optimizer, 0.1)
    assert not torch.equal(generator.weight, before)
    assert critic.weight.grad is None


# --- counts ----------------------------------------------------------------------------------------------------------


def test_points_at_the_centres_are_all_modes_and_all_good(grid25):
    found = grid25.measured(grid25.centres().repeat(40, 1))
    assert (found["modes"], found["good"]) == (25, 1.0)
    assert found["kl"] == pytest.approx(0, abs=1e-6)


def test_points_at_one_mode_are_one_mode_and_log_25_away(grid25):
    found = grid25.measured(grid25.centres()[7].expand(100, 2))
    assert (found["modes"], found["good"]) == (1, 1.0)
    assert found["kl"] == pytest.approx(math.log(25))


def test_a_mode_counts_by_a_point_within_three_standard_deviations(grid25):
    x = grid25.centres()[:2].clone()
    x[0, 0] += 0.149
    x[1, 0] += 0.151
    found = grid25.measured(x)
    assert (found["modes"], found["good"]) == (1, 0.5)
    assert found["kl"] == pytest.approx(math.log(25 / 2)), "what is not good is still near a mode"


def test_the_grids_own_points_are_good_as_often_as_a_gaussian_says(grid25):
    torch.manual_seed(0)
    x = grid25.real(50_000)
    assert x.std(0).tolist() == pytest.approx([1, 1], abs=0.01), "the unit of length is the standard deviation"
    found = grid25.measured(x * grid25.UNIT)
    assert found["good"] == pytest.approx(1 - math.exp(-4.5), abs=2e-3)
    assert found["divergence"] < 2e-3


def test_triples_of_digits_are_read_red_first_and_counted():
    stacked_mnist = script("stacked_mnist")

    def net(x):  # reads the brightness of a colour as its digit
        return -((x.mean(dim=(1, 2, 3))[:, None] + 1) * 4.5 - torch.arange(10)).abs()

    digits = torch.tensor([[1, 2, 3], [9, 0, 5], [1, 2, 3]])
    x = (digits / 4.5 - 1)[:, :, None, None].expand(-1, -1, 28, 28)
    net.eval = lambda: None  # pyright: ignore[reportFunctionMemberAccess]
    read = stacked_mnist.triples(net, x)  # pyright: ignore[reportArgumentType]
    assert read.tolist() == [123, 905, 123]

    even = torch.full((1000,), 1e-3)
    assert stacked_mnist.modes(read, even) == {
        "modes": 2,
        "kl": pytest.approx(math.log(1000) - math.log(3) + 2 / 3 * math.log(2)),
    }
    assert stacked_mnist.modes(torch.arange(1000), even) == {"modes": 1000, "kl": pytest.approx(0, abs=1e-6)}


def test_the_law_of_triples_is_the_product_of_the_digits_frequencies():
    stacked_mnist = script("stacked_mnist")

    law = stacked_mnist.law(torch.tensor([0, 1, 1, 1]))
    assert law.sum().item() == pytest.approx(1)
    assert (law[0].item(), law[110].item(), law[11].item()) == (0.25**3, 0.75**2 * 0.25, 0.25 * 0.75**2)


def test_a_run_fails_by_its_distance_or_its_classes_and_not_otherwise():
    fashion = script("fashion")

    def failed(distance, classes):
        found = {"classes": classes} | ({} if distance is None else {"distance": distance})
        return fashion.failed(found, best_median=10.0)

    assert not failed(40.0, 5)
    assert failed(40.1, 10)
    assert failed(10.0, 4)
    assert failed(None, 0), "a training that broke off"
    assert fashion.present(torch.tensor([0] * 99 + [1])) == 2
    assert fashion.present(torch.tensor([0] * 199 + [1])) == 1


# --- equal contestants -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["dcgan", "wgan-gp", "r3gan"])
def test_the_networks_for_points_are_as_large_as_the_denoiser(grid25, method):
    for option in grid25.WAVES:
        (denoiser,) = grid25.contestant("diffusion", option, 2, 1e-3).networks.values()
        for net in grid25.contestant(method, option, 2, 1e-3).networks.values():
            assert sum(p.numel() for p in net.parameters()) == pytest.approx(
                sum(p.numel() for p in denoiser.parameters()), rel=0.1
            )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("method", ["dcgan", "wgan-gp", "r3gan"])
def test_the_networks_for_pictures_are_as_large_as_the_unet(method, channels):
    pictures = script("pictures")

    (unet,) = pictures.contestant("diffusion", 1e-3, channels).networks.values()
    for net in pictures.contestant(method, 1e-3, channels).networks.values():
        assert sum(p.numel() for p in net.parameters()) == pytest.approx(
            sum(p.numel() for p in unet.parameters()), rel=0.1
        )


def test_operations_are_those_of_the_products_forwards_and_backwards():
    operations = script("contest").operations

    w, x = torch.randn(5, 7, requires_grad=True), torch.randn(3, 5)
    product = 2 * 3 * 5 * 7
    assert operations(lambda: x @ w) == product
    assert operations(lambda: torch.autograd.grad((x @ w).sum(), w)) == 2 * product


@pytest.mark.parametrize("method", ["dcgan", "r3gan"])
def test_every_method_trains_for_the_same_operations(grid25, method, tmp_path):
    Cell = script("contest").Cell

    found = []
    for name in ("diffusion", method):
        cell = Cell(name, 1e-3, 0)
        (tmp_path / cell.path).parent.mkdir()
        found.append(grid25.run(cell, 1, 60, tmp_path, lambda done, total: None))
    assert found[1]["operations"] == pytest.approx(found[0]["operations"], rel=0.1)
    assert found[1]["steps"] < found[0]["steps"] / 2, "a step of a GAN costs more"


def test_members_of_a_network_have_nothing_to_do_with_each_other():
    points = script("points")

    torch.manual_seed(0)
    for net, inputs in ((points.generator(3, 8, 2, norm=True), 2), (points.Critic(3, 8, (1.0, 2.0), 1.0), 2)):
        x = torch.randn(3 * 5, inputs, requires_grad=True)
        net(x)[5:10].sum().backward()
        reached = [p.grad.flatten(1).abs().sum(1) > 0 for p in net.parameters() if p.grad is not None]
        assert all(r.tolist() == [False, r[1].item(), False] for r in reached) and any(r[1] for r in reached)
        assert x.grad is not None and x.grad[:5].abs().sum() == x.grad[10:].abs().sum() == 0


# --- results ---------------------------------------------------------------------------------------------------------


class Quiet:
    def say(self, text):
        return None

    def progress(self, task, done, total, note=""):
        return None


def test_finished_cells_are_not_worked_on_again(tmp_path):
    Cell = script("contest").Cell
    results = script("contest").results

    worked = []

    def work(cell, tell):
        worked.append(cell)
        if cell.seed == 2 and len(worked) == 3:
            raise KeyboardInterrupt
        return {"seed": cell.seed}

    cells = [Cell("dcgan", 1e-3, seed) for seed in range(3)]
    with pytest.raises(KeyboardInterrupt):
        results(cells, tmp_path, work, Quiet())
    again = results(cells, tmp_path, work, Quiet())
    assert [result["seed"] for result in again.values()] == [0, 1, 2]
    assert worked == [*cells, cells[2]], "only the one that was broken off"
    assert sorted(json.loads(p.read_text())["seed"] for p in tmp_path.rglob("*.json")) == [0, 1, 2]


def test_cells_of_different_settings_are_kept_apart():
    Cell = script("contest").Cell

    cells = [Cell("a", 1e-3, 0), Cell("b", 1e-3, 0), Cell("a", 1e-4, 0), Cell("a", 1e-3, 1), Cell("a", 1e-3, 0, 4.0)]
    assert len({cell.path for cell in [*cells, Cell("a", 1e-3, 0, option="-plain")]}) == 6


def test_the_best_setting_is_that_of_the_least_median_over_seeds():
    Cell = script("contest").Cell
    best = script("contest").best

    scores = {1e-4: [1.0, 9.0, 9.0], 1e-3: [5.0, 6.0, math.inf], 1e-2: [7.0, 7.0, 7.0]}
    found = {Cell("a", lr, seed): {"score": s} for lr, values in scores.items() for seed, s in enumerate(values)}
    assert best(found, lambda result: result["score"]).lr == 1e-3


def test_training_ends_at_the_first_loss_that_is_not_finite():
    fit = script("contest").fit

    class Breaks:
        steps = 0

        def step(self, real, factor):
            self.steps += 1
            return {"critic": 1.0 if self.steps < 5 else math.nan}

    model, looks = Breaks(), []
    curves = fit(model, lambda: torch.zeros(1), 10, looks.append, 2, lambda done, total: None)  # pyright: ignore[reportArgumentType]
    assert (model.steps, looks, curves["critic"]) == (5, [], [1.0] * 4 + [None])
