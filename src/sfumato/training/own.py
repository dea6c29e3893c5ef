"""Parts of one's own: a data set, a network or an objective that a program hands to ``train``.

The settings name such a part by its class or function, ``network: {kind: own, name: MyNetwork}``, and no file holds it:
what a run or a saved model needs of it is handed in again, and refused where its name is another.
"""

from dataclasses import dataclass

from torch import nn

from sfumato.config import Config, validate
from sfumato.data.map_style import HANDED_IN, MapStyle, source_of
from sfumato.data.records import Source
from sfumato.diffusion.objectives import Loss
from sfumato.errors import UserError
from sfumato.kinds import columns_asked
from sfumato.model import demand_network, part_name
from sfumato.report import Report, Silent
from sfumato.training.resolve import source_of as listed


@dataclass(frozen=True)
class Own:
    """What a program hands in; None stands for what the settings name.

    Attributes:
        data: see ``sfumato.data.map_style``.
        network: called as network(x (B, C + planes, *sides), noise level (B,), **condition) -> (B, C, *sides), as
            ``sfumato.diffusion.denoisers.Denoiser`` does. It is copied, and stays as it is.
        objective: called as objective(denoiser, x_0 (B, C, *sides), t (B,), noise like x_0, **condition) -> (B,), as
            those of ``sfumato.diffusion.objectives``.
    """

    data: MapStyle | None = None
    network: nn.Module | None = None
    objective: Loss | None = None

    def named(self, config: Config) -> Config:
        """``config`` with the names of the parts.

        Raises:
            UserError: the settings name an own objective, or own data, and none is handed in; or a part cannot be used.
        """
        settings = config.model_dump(mode="json")
        if self.data is not None:
            if isinstance(self.data, type) or not all(hasattr(self.data, m) for m in ("__len__", "__getitem__")):
                raise UserError(
                    f"data: {part_name(self.data)} has no length or no items by number",
                    fix="hand in an object with len(data) and data[i]; a loader or an iterator is none",
                )
            if config.data.policy == "quarantine":
                raise UserError(
                    "data.policy = quarantine moves files, and a data set that is handed in has none",
                    fix="use data.policy = skip or stop",
                )
            settings["data"]["path"] = HANDED_IN + part_name(self.data)
        elif config.data.path.startswith(HANDED_IN):
            raise not_handed_in("data", config.data.path.removeprefix(HANDED_IN))
        if self.network is not None:
            demand_network(self.network)
            if not any(p.requires_grad for p in self.network.parameters()):
                raise UserError(f"network: {part_name(self.network)} has no parameter to train", fix="give it some")
            settings["network"] = {
                "kind": "own",
                "name": part_name(self.network),
                "learned_variance": bool(getattr(self.network, "learned_variance", False)),
            }
        if self.objective is not None:
            if not callable(self.objective) or isinstance(self.objective, type):
                raise UserError(
                    f"objective: {self.objective!r} cannot be called with a denoiser and a batch",
                    fix="hand in a function or an object, objective(denoiser, x_0, t, noise, **condition) -> (B,)",
                )
            if isinstance(self.objective, nn.Module) and any(p.requires_grad for p in self.objective.parameters()):
                raise UserError(
                    f"objective: {part_name(self.objective)} has parameters, and only the network's are trained",
                    fix="freeze them with requires_grad_(False), or make them a part of the network",
                )
            settings["objective"] = {"kind": "own", "name": part_name(self.objective)}
        elif config.objective.kind == "own":
            raise not_handed_in("objective", config.objective.name)
        return validate(settings, "the parts that were handed in")

    @property
    def readers(self) -> int | None:
        """How many threads read the data: one where they are of one's own, which may not bear more."""
        return None if self.data is None else 1

    def source(self, config: Config, report: Report | None = None) -> Source:
        """The list of the data: of those that were handed in, else of ``data.path``.

        Raises:
            UserError: no such data, or an item that cannot be used.
        """
        if self.data is None:
            return listed(config)
        report = report or Silent()
        group = config.data.group
        return source_of(
            self.data,
            part_name(self.data),
            config.codec.pictorial,
            group,
            columns_asked(config),
            lambda done, total: report.progress("listing the data", done, total),
        )


NOTHING = Own()


def not_handed_in(part: str, name: str) -> UserError:
    """The error for a part that the settings name and nobody gave."""
    return UserError(
        f"{part}: {name} is a part of the program that trains, and no file holds it",
        fix=f"hand it in: sfumato.train(config, out, {part}=...)",
    )
