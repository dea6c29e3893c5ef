"""The page: its numbers are what the functions compute, its names exist, and it needs no other file."""

import base64
import importlib
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image

from sfumato.cli.main import main
from sfumato.diffusion import Gaussian, Karras, cosine, linear_beta
from sfumato.errors import UserError
from sfumato.explain import forward, posterior
from sfumato.explain.information import log_snr_where_gone
from sfumato.explain.jump import between
from sfumato.explain.pictures import film, landscape, sharpness, spread
from sfumato.explain.report import explain
from sfumato.page import number, png

STEPS = 3
VOID = {"img", "meta", "link", "br"}
SELF_CONTAINED = re.compile(r"^(data:|#)")


class Parsed(HTMLParser):
    """Tags with their attributes, and a complaint where one is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def of(self, wanted: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.tags if tag == wanted]


class Told:
    """A report that remembers."""

    def __init__(self) -> None:
        self.tasks: dict[str, list[tuple[int, int]]] = {}

    def say(self, text: str) -> None:
        raise AssertionError(text)

    def progress(self, task: str, done: int, total: int, note: str = "") -> None:
        self.tasks.setdefault(task, []).append((done, total))


@pytest.fixture(scope="module")
def told() -> Told:
    return Told()


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The folder without a model."""
    return explain(tmp_path_factory.mktemp("alone"), steps=STEPS).parent


@pytest.fixture(scope="module")
def with_model(tmp_path_factory, tiny, told) -> Path:
    """The folder with a small model."""
    model = tiny("text", diffusion={"shift": 2.0})
    return explain(tmp_path_factory.mktemp("model"), model, prompt="a red <cat>", steps=STEPS, report=told).parent


@pytest.fixture(params=["alone", "with_model"])
def folder(request) -> Path:
    return request.getfixturevalue(request.param)


def text_of(folder: Path) -> str:
    return (folder / "index.html").read_text("utf-8")


def rows_of(folder: Path, caption: str) -> list[list[str]]:
    """The cells of the table whose caption begins so."""
    table = re.search(rf"<caption><span>{re.escape(caption)}.*?</table>", text_of(folder), re.DOTALL)
    assert table
    return [re.findall(r"<td>(.*?)</td>", row) for row in table[0].split("<tr>")[2:]]


# --- the file --------------------------------------------------------------------------------------------------------


def test_it_is_whole_html_that_refers_to_nothing_outside(folder):
    text = text_of(folder)
    parsed = Parsed(text)

    for _, attributes in parsed.tags:
        for name in ("src", "href", "srcset", "action", "data"):
            assert name not in attributes or SELF_CONTAINED.match(attributes[name])
    bare = re.sub(r"base64,[\w+/=]+", "", text).replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?:|url\(|@import|<script|<iframe", bare)
    assert len(text.encode()) < 4e6


def test_every_section_can_be_reached_and_every_picture_is_told_in_words(folder):
    parsed = Parsed(text_of(folder))
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]

    assert len(ids) == len(set(ids)) == (6 if folder.name.startswith("model") else 5)
    assert [attributes["href"] for attributes in parsed.of("a")] == [f"#{name}" for name in ids]
    assert all(len(attributes["alt"]) > 30 for attributes in parsed.of("img"))
    assert all(len(a["aria-label"]) > 30 for a in parsed.of("svg") if a.get("class") == "plot")


def test_every_name_of_the_code_is_one(folder):
    names = set(re.findall(r"<code>(sfumato\.[\w.]+)</code>", text_of(folder)))

    assert len(names) > 12
    for name in names:
        module, *rest = re.fullmatch(r"(sfumato\.\w+\.\w+)\.([\w.]+)", name).groups()  # pyright: ignore
        found = importlib.import_module(module)
        for part in rest[0].split("."):
            found = getattr(found, part)
        assert callable(found) and found.__doc__


def test_every_formula_has_its_code_beside_it(folder):
    formulas = re.findall(r'<div class="formula">(.*?)</div>', text_of(folder), re.DOTALL)

    assert len(formulas) > 10
    assert all("<code>sfumato." in formula for formula in formulas)


def test_the_pictures_on_the_page_are_the_files_beside_it(folder):
    embedded = {base64.b64decode(data) for data in re.findall(r"base64,([\w+/=]+)", text_of(folder))}
    files = {path.read_bytes() for path in folder.iterdir() if path.suffix in (".png", ".webp")}

    assert embedded == files
    for path in folder.glob("*.svg"):
        assert path.read_text("utf-8") in text_of(folder)
    for path in folder.glob("*.webp"):
        with Image.open(path) as moving:
            assert getattr(moving, "n_frames", 1) > 1


def test_the_same_seed_gives_the_same_page(alone, tmp_path):
    again = explain(tmp_path / "new" / "folder", steps=STEPS)
    assert again.read_bytes() == (alone / "index.html").read_bytes()


# --- the numbers -----------------------------------------------------------------------------------------------------


def test_the_times_where_the_information_is_gone_are_those_of_closed_forms(alone):
    variance = float(landscape((3, 64, 64)).var(unbiased=False))
    wanted = math.log((2**0.02 - 1) / variance)
    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
    expected = {
        "flow": 1 / (math.exp(wanted / 2) + 0.999),
        "Karras": (math.exp(-wanted / 14) - low) / (high - low),
        # alpha_bar = sigmoid(log-SNR); the cap on the betas does not reach this far
        "cosine": math.acos(
            math.cos(0.008 / 1.008 * math.pi / 2) / math.sqrt(1 + math.exp(-wanted))
        ) / (math.pi / 2) * 1.008 - 0.008,
    }  # fmt: skip
    cells = {row[0]: row for row in rows_of(alone, "From which time")}

    assert log_snr_where_gone(variance) == pytest.approx(wanted)
    for name, time in expected.items():
        assert float(cells[name][1]) == pytest.approx(time, abs=6e-4)
        assert cells[name][3] == f"{100 * (1 - time):.0f} %"
    t = torch.arange(1001) / 1000
    betas = linear_beta().betas
    bar = torch.cat([torch.ones(1), (1 - betas).cumprod(0)])
    crossed = t[bar / (1 - bar) < math.exp(wanted)][0]
    assert float(cells["linear"][1]) == pytest.approx(float(crossed), abs=1.5e-3)


def test_the_snr_on_the_page_is_that_of_the_chain(alone):
    for time, linear, _ in rows_of(alone, "The signal-to-noise ratio")[1:-1]:
        bar = (1 - linear_beta().betas)[: round(1000 * float(time))].prod()
        assert float(linear) == pytest.approx(float(bar / (1 - bar)), rel=6e-3)


def test_the_models_own_schedule_is_among_the_curves_with_its_shift(with_model):
    cells = {row[0]: row for row in rows_of(with_model, "From which time")}

    assert "shift=2.0" in text_of(with_model)
    assert float(cells["the model's"][1]) < float(cells["flow"][1])  # twice the noise: gone earlier


def test_one_jump_keeps_no_variance_and_small_steps_keep_that_of_the_data(alone):
    cells = rows_of(alone, "2,000 points")
    variances = [float(row[1]) for row in cells]

    assert [row[0] for row in cells] == ["1 step", *(f"{n} steps" for n in (2, 4, 8, 16, 64)), "data"]
    assert variances[0] == 0
    assert variances == sorted(variances)
    assert variances[-2] == pytest.approx(1, abs=0.05) and variances[-1] == pytest.approx(1, abs=0.05)


def test_the_model_draws_the_picture_that_generate_draws(with_model, tiny):
    model = tiny("text", diffusion={"shift": 2.0})
    (expected,) = model.generate("a red <cat>", steps=STEPS)
    with Image.open(with_model / "states.png") as sheet:
        side, step = 112, 112 + 6
        last = sheet.convert("RGB").crop(((STEPS - 1) * step + 6, 6, (STEPS - 1) * step + 6 + side, 6 + side))

    assert last.resize(expected.size, Image.Resampling.NEAREST).tobytes() == expected.tobytes()


def test_the_variance_between_pictures_is_that_of_each_pixel():
    generator = torch.Generator().manual_seed(0)
    own, common = torch.randn(4, 3, 64, 64, generator=generator), torch.randn(3, 64, 64, generator=generator)

    assert between(common.expand(4, 3, 64, 64)) == 0
    assert between(common + 0.5 * own) == pytest.approx(0.25, rel=0.02)


def test_the_numbers_of_one_jump_are_those_of_a_single_unguided_step(with_model, tiny):
    model = tiny("text", diffusion={"shift": 2.0})
    settings = model.sampling(steps=1, solver="ddim", guidance=1)
    (step,) = model.steps(["a red <cat>"] * 4, range(4), settings)
    cells = rows_of(with_model, "How much the rows differ")

    assert [row[0] for row in cells] == ["1 step", "2 steps", "3 steps"]
    assert cells[0][1].startswith(f"{number(between(step.mean))} (")
    assert cells[0][2].startswith(f"{number(float(sharpness(step.mean).mean()))} (")
    assert cells[-1][1].endswith("(100 %)") and cells[-1][2].endswith("(100 %)")


def test_a_prompt_is_told_as_words_and_not_as_markup(with_model):
    assert "“a red &lt;cat&gt;”" in text_of(with_model)


def test_how_far_it_is_is_told_up_to_the_end(with_model, told):
    assert {"drawing", "filming points in the plane", "removing the noise in 1 step"} <= told.tasks.keys()
    for steps in told.tasks.values():
        assert steps[-1][0] == steps[-1][1]
        assert [done for done, _ in steps] == list(range(1, len(steps) + 1))


# --- the parts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_noised_pictures_have_the_moments_of_the_marginal(name):
    schedule, x_0 = forward.SIDE_BY_SIDE[name], landscape((3, 64, 64))
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0))
    alpha, sigma = schedule(forward.TIMES)

    states = forward.noised(x_0, schedule, forward.TIMES, noise)
    rest = states - alpha.float()[:, None, None, None] * x_0
    torch.testing.assert_close(rest.mean((1, 2, 3)), torch.zeros(9), atol=0.03, rtol=0)
    torch.testing.assert_close(rest.std((1, 2, 3)), sigma.float(), atol=0.02, rtol=0)
    assert torch.equal(states[0], x_0)


@pytest.mark.parametrize("schedule", [cosine(), Karras()], ids=str)
def test_the_posterior_of_the_pixel_is_bayes_rule(schedule):
    x_0, x_t, t = (torch.tensor(v, dtype=torch.float64) for v in (0.4, -0.9, 0.6))
    s = torch.tensor([0.1, 0.3, 0.59], dtype=torch.float64)
    mean, std = posterior.along(Gaussian(schedule), x_t, x_0, t, s)

    (alpha_s, sigma_s), (alpha_t, sigma_t) = schedule(s), schedule(t)
    a = alpha_t / alpha_s  # x_t = a x_s + noise
    precision = 1 / sigma_s**2 + a**2 / (sigma_t**2 - (a * sigma_s) ** 2)
    expected = (alpha_s * x_0 / sigma_s**2 + a * x_t / (sigma_t**2 - (a * sigma_s) ** 2)) / precision
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(std, precision.rsqrt())


def test_sharpness_is_the_mean_square_of_steps_between_neighbours():
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4).expand(1, 3, 8, 8)
    assert sharpness(board).tolist() == [4.0]
    assert sharpness(torch.full((2, 1, 5, 5), 0.3)).tolist() == [0.0, 0.0]

    noise = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert float(sharpness(noise.mean(0, keepdim=True))) == pytest.approx(float(sharpness(noise).mean()) / 2, rel=0.05)


def test_a_film_keeps_all_its_frames():
    frames = [Image.new("RGB", (32, 32), (40 * i, 0, 0)) for i in range(5)]
    with Image.open(io.BytesIO(film(frames))) as moving:
        assert getattr(moving, "n_frames", 0) == 5


def test_a_large_picture_gets_a_palette():
    noise = Image.effect_noise((512, 512), 90).convert("RGB")
    with Image.open(io.BytesIO(png(noise))) as large, Image.open(io.BytesIO(png(noise.crop((0, 0, 64, 64))))) as small:
        assert (large.mode, small.mode) == ("P", "RGB")


@pytest.mark.parametrize("count", [1, 2, 9, 10, 11, 1000])
def test_what_is_shown_of_many_begins_and_ends_with_them(count):
    chosen = spread(count, 10)
    assert chosen[0] == 0 and chosen[-1] == count - 1
    assert len(set(chosen)) == len(chosen) == min(count, 10)


@pytest.mark.parametrize(
    ("value", "html"),
    [(math.inf, "∞"), (-2.5, "−2.5"), (12345.6, "12,346"), (0.01, "0.01"), (4.04e-5, "4.04·10<sup>−5</sup>"), (0, "0")],
)
def test_numbers_are_written_as_people_do(value, html):
    assert number(value) == html


# --- what is asked ---------------------------------------------------------------------------------------------------


def test_the_command_writes_the_page_of_a_model_and_a_picture_and_says_where(tmp_path, tiny, capsys):
    tiny("class", data={"size": 8, "channels": 1}).save(tmp_path / "model")
    Image.linear_gradient("L").resize((50, 30)).save(tmp_path / "my <sky>.png")
    options = {"--prompt": "cat", "--picture": tmp_path / "my <sky>.png", "--steps": 1, "--out": tmp_path / "e"}
    code = main(["explain", str(tmp_path / "model"), *(str(word) for pair in options.items() for word in pair)])

    assert code == 0
    assert capsys.readouterr().out.strip() == str((tmp_path / "e" / "index.html").resolve())
    assert "“cat”" in text_of(tmp_path / "e")
    assert "the picture my &lt;sky&gt;.png" in text_of(tmp_path / "e")
    with Image.open(tmp_path / "e" / "forward-linear.png") as sheet:
        shown = sheet.convert("L").crop((6, 6, 6 + 112, 6 + 112)).resize((8, 8), Image.Resampling.NEAREST)
    assert shown.getpixel((4, 0)) < 40 and shown.getpixel((4, 7)) > 215  # pyright: ignore[reportOperatorIssue]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt": "a cat"}, "no model"),
        ({"steps": 0}, "steps: 0 is outside 1 to 1000"),
        ({"steps": 1001}, "steps: 1001 is outside 1 to 1000"),
        ({"seed": -1}, "seed: -1"),
        ({"picture": "missing.png"}, "missing.png cannot be read"),
        ({"picture": "broken.png"}, "broken.png cannot be used"),
        ({"picture": "white.png"}, "every pixel of white.png is the same"),
        ({"out": "white.png"}, "white.png cannot be written"),
    ],
)
def test_what_cannot_be_done_is_told_with_the_fix(tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    Path("broken.png").write_text("no picture")
    Image.new("RGB", (16, 16), "white").save("white.png")

    with pytest.raises(UserError, match=words) as caught:
        explain(**{"out": "out", **options})
    assert caught.value.fix


def test_a_class_that_the_model_does_not_have_is_told(tmp_path, tiny):
    with pytest.raises(UserError, match="'zebra'"):
        explain(tmp_path / "out", tiny("class"), prompt="zebra")
    assert not (tmp_path / "out").exists()
