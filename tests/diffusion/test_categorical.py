"""Tokens: the bridge composes to the forward law, and a known joint is reached through the same loop as pictures."""

import itertools
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sfumato import registry
from sfumato.diffusion import (
    DDIM,
    Ancestral,
    Categorical,
    Flow,
    Gaussian,
    Guided,
    Heun,
    Karras,
    TokenDenoiser,
    cosine,
    denoising_loss,
    grids,
    like,
    objectives,
    sample,
)
from sfumato.errors import UserError

K, L = 3, 2
LAWS = ("masked", "uniform")
T, S = torch.tensor(0.7, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)

# p(x_0) of two tokens that depend on each other, from 0 to 0.4
JOINT = torch.tensor([[0.3, 0.0, 0.1], [0.0, 0.05, 0.05], [0.4, 0.1, 0.0]], dtype=torch.float64)


def process_of(law, schedule=None):
    return Categorical(schedule or Flow(), K, law)


def marginal(process, t):
    """q(x_t | x_0) (K, states), row by row, as the docstring has it."""
    a = process.kept(t)
    pi = torch.full((process.states,), 1 / K, dtype=torch.float64)
    if process.law == "masked":
        pi = F.one_hot(torch.tensor(K), K + 1).double()
    return a * F.one_hot(torch.arange(K), process.states) + (1 - a) * pi


def chain(process, s, t):
    """q(x_t | x_s) (states, states)."""
    step = process.kept(t) / process.kept(s)
    pi = marginal(process, torch.ones((), dtype=torch.float64))[0]
    return step * torch.eye(process.states, dtype=torch.float64) + (1 - step) * pi


@dataclass(frozen=True)
class Exact:
    """p(x_0^i | x_t) for every place i under JOINT, by enumeration."""

    process: Categorical

    def __call__(self, x_t, t, **cond):
        q = marginal(self.process, t)
        first, second = q[:, x_t[:, 0]], q[:, x_t[:, 1]]  # q(x_t^i | x_0^i) (K, B)
        joint = JOINT[None] * first.T[:, :, None] * second.T[:, None, :]
        joint = joint / joint.sum((1, 2), keepdim=True)
        return torch.stack([joint.sum(2), joint.sum(1)], 1)


class PlugIn(Categorical):
    """The mutation: q(x_s | x_t, x_0) with the mean put in, without the division by q(x_t | x_0)."""

    def _bayes(self, here, mean, a_t, a_s):
        pi, step = self._pi(mean), a_t / a_s
        found = (step * here + (1 - step) * (here * pi).sum(-1, keepdim=True)) * (a_s * mean + (1 - a_s) * pi)
        return found / found.sum(-1, keepdim=True)


def reached(process, n, eta):
    """The joint (K, K) that `n` steps of sampling lead to, exactly: by the transition matrix of all states."""
    exact = Exact(process)
    states = torch.tensor(list(itertools.product(range(process.states), repeat=L)))
    pi = marginal(process, torch.ones((), dtype=torch.float64))[0]
    now = pi[states].prod(1)
    for t, s in itertools.pairwise(grids.uniform(process.schedule, n)):
        possible = now > 0
        x_t = states[possible]
        p = process.posterior(x_t, exact(x_t, t), t, s, eta)
        now = (now[possible][:, None, None] * (p[:, 0, :, None] * p[:, 1, None, :])).sum(0).flatten()
    return now.reshape(process.states, process.states)[:K, :K]


def variation(found):
    return (found - JOINT).abs().sum().item() / 2


# --- the laws --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("base", [Flow(), cosine()], ids=str)
def test_the_chain_composes_to_the_forward_law_and_ends_in_pi(law, base):
    process = process_of(law, base)
    torch.testing.assert_close(marginal(process, S) @ chain(process, S, T), marginal(process, T))
    assert process.kept(torch.tensor(0.0)) == 1 and process.kept(torch.tensor(1.0)) == 0
    last = marginal(process, torch.ones((), dtype=torch.float64))
    assert (last == last[0]).all(), "the prior knows nothing of the data"


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_the_bridge_composes_to_the_forward_law(law, eta):
    process = process_of(law)
    q_t = marginal(process, T)
    for x_0 in range(K):
        x_t = torch.arange(process.states)[:, None]
        known = F.one_hot(torch.full_like(x_t, x_0), K)
        back = process.posterior(x_t, known, T, S, eta)[:, 0]
        possible = q_t[x_0] > 0
        torch.testing.assert_close(back[possible].sum(1), torch.ones(int(possible.sum()), dtype=torch.float64))
        torch.testing.assert_close(q_t[x_0, possible] @ back[possible], marginal(process, S)[x_0])


@pytest.mark.parametrize("law", LAWS)
def test_the_bridge_is_bayes_rule_for_the_chain(law):
    process = process_of(law)
    joint = marginal(process, S)[:, :, None] * chain(process, S, T)  # q(x_s, x_t | x_0)
    bayes = joint / joint.sum(1, keepdim=True)
    for x_0, x_t in itertools.product(range(K), range(process.states)):
        if marginal(process, T)[x_0, x_t] > 0:
            known = F.one_hot(torch.tensor([[x_0]]), K)
            found = process.posterior(torch.tensor([[x_t]]), known, T, S)[0, 0]
            torch.testing.assert_close(found, bayes[x_0, :, x_t])


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_draws_have_the_frequencies_of_the_law(law, eta):
    process, n = process_of(law), 40_000
    generator = torch.Generator().manual_seed(1)
    x_0 = torch.full((n, 1), 2)
    x_t = process.forward(x_0, T, process.noise(x_0.shape, generator))
    x_s = process.bridge(x_t, F.one_hot(x_0, K), T, S, lambda x: process.noise(x.shape, generator), eta)
    for x, t in ((x_t, T), (x_s, S)):
        found = torch.bincount(x.flatten(), minlength=process.states) / n
        torch.testing.assert_close(found.double(), marginal(process, t)[2], rtol=0, atol=0.01)
    assert x_t.dtype == x_s.dtype == torch.int64


def test_under_the_masked_law_all_eta_are_the_same_and_seen_tokens_stay():
    process = process_of("masked")
    x_t = torch.tensor([[K, 1]])
    mean = torch.tensor([[[0.2, 0.5, 0.3], [0.9, 0.05, 0.05]]], dtype=torch.float64)
    bayes, kept = (process.posterior(x_t, mean, T, S, eta) for eta in (1.0, 0.0))
    torch.testing.assert_close(bayes, kept)
    assert bayes[0, 1].tolist() == pytest.approx([0, 1, 0, 0])
    stays = (1 - process.kept(S)) / (1 - process.kept(T))
    torch.testing.assert_close(bayes[0, 0], torch.cat([(1 - stays) * mean[0, 0], stays[None]]))


# --- sampling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("law", "eta"), [("masked", 1.0), ("uniform", 1.0), ("uniform", 0.0), ("uniform", 0.5)])
def test_the_joint_is_reached_and_the_more_steps_the_nearer(law, eta):
    far = [variation(reached(process_of(law), n, eta)) for n in (4, 16, 64, 256)]
    assert all(after < 0.4 * before for before, after in itertools.pairwise(far)), far
    assert far[-1] < 0.003


def test_without_the_division_sampling_stalls_under_the_uniform_law():
    far = [variation(reached(PlugIn(Flow(), K, "uniform"), n, 1.0)) for n in (16, 64, 256)]
    assert min(far) > 0.03, far


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("solver", [DDIM(), DDIM(0.5), Ancestral()], ids=repr)
def test_the_same_loop_draws_tokens(law, solver):
    process, n = process_of(law), 20_000
    generator = torch.Generator().manual_seed(0)
    x_1 = process.prior(process.noise((n, L), generator))
    steps = list(
        sample(
            Exact(process),
            x_1,
            grids.uniform(process.schedule, 24),
            solver,
            lambda x: process.noise(x.shape, generator),
        )
    )
    found = torch.bincount(steps[-1].x @ torch.tensor([K, 1]), minlength=K * K).reshape(K, K) / n
    assert variation(found) < 0.03
    assert steps[3].mean.shape == (n, L, K)
    again = torch.Generator().manual_seed(0)
    x_1 = process.prior(process.noise((n, L), again))
    times = grids.uniform(process.schedule, 24)
    *_, last = sample(Exact(process), x_1, times, solver, lambda x: process.noise(x.shape, again))
    assert torch.equal(last.x, steps[-1].x)


def test_by_default_the_loop_asks_the_process_for_its_noise():
    process = process_of("uniform")
    torch.manual_seed(0)
    *_, last = sample(Exact(process), torch.zeros(500, L, dtype=torch.int64), torch.linspace(1, 0, 9), Ancestral())
    assert set(last.x.flatten().tolist()) == {0, 1, 2}


# --- losses ----------------------------------------------------------------------------------------------------------


def test_the_error_is_the_cross_entropy():
    mean = torch.tensor([[[0.2, 0.5, 0.3], [0.9, 0.05, 0.05]]])
    found = process_of("masked").error(torch.tensor([[1, 0]]), mean)
    torch.testing.assert_close(found, -(torch.tensor([0.5]).log() + torch.tensor([0.9]).log()) / 2)


@pytest.mark.parametrize("law", LAWS)
def test_the_bound_of_one_token_is_its_entropy_and_that_of_a_worse_denoiser_more(law):
    """With one token the way back is exact, so that the bound is tight, for any number of steps."""
    process, p = process_of(law), torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    times = grids.uniform(process.schedule, 5)

    def bound(answer):
        total = torch.zeros((), dtype=torch.float64)
        for t, s in itertools.pairwise(times):
            q = marginal(process, t)
            for x_0, x_t in itertools.product(range(K), range(process.states)):
                if q[x_0, x_t] > 0:
                    mean = answer(p * q[:, x_t] / (p * q[:, x_t]).sum())[None, None]
                    term = process.term(torch.tensor([[x_0]]), torch.tensor([[x_t]]), mean, t, s)
                    total += p[x_0] * q[x_0, x_t] * term[0]
        return total

    entropy = -(p * p.log2()).sum()
    torch.testing.assert_close(bound(lambda mean: mean), entropy)
    assert bound(lambda mean: 0.5 * mean + 0.5 / K) > entropy + 0.01


def test_the_term_of_the_masked_law_is_the_cross_entropy_of_masked_tokens():
    process = process_of("masked")
    x_0, x_t = torch.tensor([[1, 0]]), torch.tensor([[K, 0]])
    mean = torch.tensor([[[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]]], dtype=torch.float64)
    share = (process.kept(S) - process.kept(T)) / (1 - process.kept(T))
    torch.testing.assert_close(process.term(x_0, x_t, mean, T, S), share.reshape(1) * 1 / 2)  # -log2 0.5 = 1, of two


# --- denoisers -------------------------------------------------------------------------------------------------------


class Table(nn.Module):
    """Logits by token and place, moved by a condition; it records the levels that it is told."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(K + 1, K, generator=torch.Generator().manual_seed(0)))
        self.levels = []

    def forward(self, x, level, vector=None):
        self.levels.append(level)
        return self.table[x] + (0 if vector is None else vector[:, None])


@pytest.mark.parametrize("law", LAWS)
def test_a_token_denoiser_answers_probabilities_and_learns_by_the_plain_loss(law):
    process, table = process_of(law), Table()
    denoiser = TokenDenoiser(table, process)
    x_0 = torch.tensor([[1, 0], [2, 2]])
    generator = torch.Generator().manual_seed(0)
    t = torch.tensor([0.37, 0.9])
    x_t = process.forward(x_0, t, process.noise(x_0.shape, generator))
    mean = denoiser(x_t, t)

    torch.testing.assert_close(mean.sum(-1), torch.ones(2, L))
    torch.testing.assert_close(table.levels[0], 1000 * t, msg="the level must not be rounded to a token's integer")
    if law == "masked":
        seen = x_t != K
        assert torch.equal(mean[seen], F.one_hot(x_t[seen], K).float())
    loss = denoising_loss(denoiser, x_0, t, process.noise(x_0.shape, generator), objectives.uniform_x)
    loss.sum().backward()
    assert loss.shape == (2,) and table.table.grad is not None and table.table.grad.any()


def test_guidance_goes_on_the_line_of_log_probabilities():
    process = process_of("uniform")
    denoiser, x = TokenDenoiser(Table(), process), torch.tensor([[0, 1], [2, 2]])
    vector, null = torch.tensor([[1.0, 0.0, -1.0], [0.0, 2.0, 0.0]]), torch.zeros(1, K)
    mean, empty = denoiser(x, T, vector=vector), denoiser(x, T, vector=null.expand(2, K))
    found = Guided(denoiser, {"vector": null}, 2.5)(x, T, vector=vector)
    expected = empty * (mean / empty) ** 2.5
    torch.testing.assert_close(found, expected / expected.sum(-1, keepdim=True))
    torch.testing.assert_close(Guided(denoiser, {"vector": null}, 0.0)(x, T, vector=vector), empty)


# --- what does not go together ---------------------------------------------------------------------------------------


def test_a_coefficient_beside_token_ids_keeps_its_fraction():
    assert like(torch.tensor(0.37), torch.tensor([[1, 2]])) == torch.tensor(0.37)
    assert like(torch.tensor([0.37, 0.5]), torch.tensor([[1], [2]])).tolist() == [[pytest.approx(0.37)], [0.5]]


def test_a_solver_of_the_ode_refuses_tokens_in_words():
    process = process_of("masked")
    with pytest.raises(ValueError, match=r"solver = Heun\(\) walks Gaussian processes, .* use DDIM or Ancestral"):
        next(sample(Exact(process), torch.zeros(1, L, dtype=torch.int64), torch.tensor([1.0, 0.0]), Heun()))


@pytest.mark.parametrize("name", registry.SOLVERS)
def test_the_registry_knows_which_solver_goes_with_which_process(name):
    assert registry.solver_for(name, Gaussian(Flow())) == registry.SOLVERS[name]()
    if name in ("ddim", "ddpm"):
        registry.solver_for(name, process_of("masked"))
    else:
        with pytest.raises(UserError, match=r"does not go with a categorical process") as refusal:
            registry.solver_for(name, process_of("masked"))
        assert refusal.value.fix == "use one of ddpm, ddim"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((Karras(), 3), "keeps its signal.*use flow or cosine"),
        ((Flow(), 1), "tokens = 1 must be at least 2"),
        ((Flow(), 3, "absorbing"), "law = 'absorbing' is not known: use 'masked' or 'uniform'"),
    ],
)
def test_settings_that_make_no_process_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Categorical(*arguments)
