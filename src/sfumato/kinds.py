"""The kinds of data: each is a codec, a reader and settings, and no other code asks which kind it has.

    kinds.register(Kind("points", PointSettings, make_codec, make_reader))

adds a kind; recipes of the running program may then say ``codec: {kind: points}``. Files name kinds, never code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

import numpy as np

from sfumato import registry
from sfumato.codecs.arrays import Arrays, axis_of, row_shape, x_shape
from sfumato.codecs.codec import Codec
from sfumato.codecs.pixels import Pixels
from sfumato.config import Config, adjusted, load_recipe, validate
from sfumato.data import formats
from sfumato.data.facts import LOOKED_AT, facts
from sfumato.data.faults import DataError, Fault, listing
from sfumato.data.readers import Reader, Unusable, arrays
from sfumato.data.readers.npy import told
from sfumato.data.readers.pictures import Pictures
from sfumato.data.records import Record, Source
from sfumato.settings.codecs import CODECS, ArrayCodec, CodecSettings, PictureSettings, PixelCodec

LEAST_ALIKE = 0.9  # of the arrays that are looked at have one shape and dtype; the others are faults


def as_told(config: Config, source: Source) -> Config:
    """Settings that need nothing of the data."""
    return config


@dataclass(frozen=True)
class Kind:
    """One kind of data.

    Attributes:
        name: ``codec.kind``.
        settings: the settings that a recipe gives it.
        codec: makes the codec from resolved settings.
        reader: makes the reader from a resolved configuration.
        extensions: endings of its files.
        resolve: (configuration, data) -> the configuration with the open settings of its codec filled in from the data.
    """

    name: str
    settings: type[CodecSettings]
    codec: Callable[[Any], Codec]
    reader: Callable[[Config], Reader]
    extensions: frozenset[str]
    resolve: Callable[[Config, Source], Config] = as_told


def _pictures(config: Config) -> Pictures:
    codec = config.codec
    assert isinstance(codec, PixelCodec)
    height, width = codec.sides
    return Pictures((width, height), codec.channels, codec.bits, config.data.depth or 16, config.data.fit)


def _resolve_pictures(config: Config, source: Source) -> Config:
    """Fill in channels, bits and depth from some of the pictures.

    There is one channel if all are grey, and more than 8 bits if half of the pictures have them. The size stays open:
    it depends on what the machine can learn in the time.
    """
    codec = config.codec
    assert isinstance(codec, PixelCodec)
    if codec.channels and codec.bits and config.data.depth:
        return config
    found = facts(source.records)
    overrides = []
    if not codec.channels:
        overrides.append(f"codec.channels={1 if found.grey else 3}")
    if not config.data.depth:
        overrides.append(f"data.depth={found.depth}")
    if not codec.bits:
        overrides.append(f"codec.bits={found.depth if found.deep >= 0.5 else 8}")
    return adjusted(config, *overrides)


def _resolve_arrays(config: Config, source: Source) -> Config:
    """Fill in shape, dtype and the place of the channels: those of most of the arrays that are looked at.

    Raises:
        DataError: they are of several shapes, with their counts.
    """
    codec = config.codec
    assert isinstance(codec, ArrayCodec)
    if not codec.open:
        return config
    forms: Counter[tuple[tuple[int, ...], str]] = Counter()
    faults = list(source.faults)
    for record in source.records[:: max(1, -(-len(source.records) // LOOKED_AT))]:
        try:
            values = arrays.opened(record.open(), config.data.array)
            forms[values.shape, arrays.stored_as(values.dtype).name] += 1
        except Unusable as error:
            faults.append(error.at(record.locator))
        except OSError as error:
            faults.append(Fault(record.locator, "unreadable", error.strerror or str(error), "Make it readable"))
    if not forms:
        raise DataError(f"{source.root}: no array can be read:\n{listing(faults)}", "repair them", faults)
    (shape, dtype), most = forms.most_common(1)[0]
    if not codec.shape and most < LEAST_ALIKE * forms.total():
        listed = ", ".join(f"{n:,} of {told(np.dtype(kind), sides)}" for (sides, kind), n in forms.most_common(4))
        raise DataError(
            f"{source.root}: the arrays are of {len(forms):,} shapes and dtypes: {listed}, "
            f"of {forms.total():,} looked at",
            "give all arrays one shape and one dtype",
        )
    axis = axis_of(shape) if codec.channel_axis == "auto" else codec.channel_axis
    settings = config.model_dump(mode="json")
    settings["codec"] |= {
        "shape": list(codec.shape or x_shape(shape, axis)),
        "dtype": codec.dtype or dtype,
        "channel_axis": axis,
    }
    return validate(settings, "codec")


def _arrays(config: Config) -> arrays.NumPyArrays:
    codec = config.codec
    assert isinstance(codec, ArrayCodec)
    return arrays.NumPyArrays(row_shape(codec.shape, codec.channel_axis), codec.dtype, config.data.array)


KINDS = {
    "arrays": Kind(
        "arrays",
        ArrayCodec,
        lambda s: Arrays(s.shape, s.dtype, s.channel_axis),
        _arrays,
        arrays.NumPyArrays.extensions,
        _resolve_arrays,
    ),
    "pixels": Kind(
        "pixels",
        PixelCodec,
        lambda s: Pixels(s.sides[::-1], s.channels, s.bits),
        _pictures,
        Pictures.extensions,
        _resolve_pictures,
    ),
}


def resolved(config: Config, source: Source) -> Config:
    """``config`` with the open settings of its codec filled in from the data; the size of pictures may stay open.

    Args:
        config: settings, perhaps with "auto" left.
        source: the data.
    """
    if config.codec.kind == "auto":
        kind = _found(source)
        known = {n: v for n, v in config.codec.model_dump(mode="json").items() if n in kind.settings.model_fields}
        config = validate({**config.model_dump(mode="json"), "codec": {**known, "kind": kind.name}}, "codec")
    return kind_of(config.codec).resolve(config, source)


def looked_at(source: Source, **pictures: Any) -> Config:
    """Settings for files that are looked at, and not trained on.

    Args:
        source: the data.
        pictures: settings of the codec where the files are pictures, such as their size.
    """
    config = resolved(load_recipe("folder"), source)
    if not isinstance(config.codec, PictureSettings):
        return config
    settings = config.model_dump(mode="json")
    settings["codec"] |= pictures
    return validate(settings, "codec")


# ---- second pictures, which are conditions


def with_second_pictures(config: Config, source: Source) -> Config:
    """``config`` in which nothing is left open of the conditions that are second pictures.

    Raises:
        DataError: they have another number of sides than x.
    """
    conditions = {}
    for name, condition in config.second_pictures.items():
        lent = replace(source, records=second_records(config, source, name), root=source.root / config.columns[name])
        found = resolved(_alone(config, name), lent)
        codec = found.codec.model_dump(mode="json")
        if "size" in found.codec.open and len(config.codec.sides) == 2:
            codec["size"] = list(config.codec.sides[::-1])
        depth = found.data.depth or 16
        conditions[name] = {**condition.model_dump(mode="json"), "codec": codec, "depth": depth}
    if not conditions:
        return config
    settings = config.model_dump(mode="json")
    settings["conditions"] |= conditions
    config = validate(settings, "conditions")
    for name, condition in config.second_pictures.items():
        if condition.codec.sides and len(condition.codec.sides) != len(config.codec.sides):
            raise DataError(
                f"conditions.{name}: its files have {len(condition.codec.sides)} sides, and the data "
                f"{len(config.codec.sides)}",
                "give second pictures or arrays of as many sides",
            )
    return config


def second_records(config: Config, source: Source, name: str) -> list[Record]:
    """The records of the second pictures of one condition."""
    place = columns_asked(config).index(config.columns[name])
    return [record.beside[place] for record in source.records if record.beside]


def columns_asked(config: Config) -> tuple[str, ...]:
    """The columns that name second pictures, each once, as ``Asked.pictures`` wants them."""
    return tuple(dict.fromkeys(config.columns.values()))


def readers_beside(config: Config) -> dict[str, tuple[int, Reader]]:
    """What reads the second pictures: by condition, which of ``Record.beside`` it is, and the reader."""
    columns = columns_asked(config)
    return {name: (columns.index(config.columns[name]), second(config, name)[1]) for name in config.second_pictures}


def second(config: Config, name: str) -> tuple[Codec, Reader]:
    """The codec and the reader of the second pictures of one condition."""
    alone = _alone(config, name)
    kind = kind_of(alone.codec)
    return kind.codec(alone.codec), kind.reader(alone)


def _alone(config: Config, name: str) -> Config:
    """``config`` as if the second pictures of one condition were the data; files with several arrays are not asked."""
    condition = config.second_pictures[name]
    settings = config.model_dump(mode="json")
    settings["codec"] = condition.codec.model_dump(mode="json")
    settings["data"] |= {"depth": condition.depth}
    return validate(settings, f"conditions.{name}")


def _found(source: Source) -> Kind:
    """The kind that most of the files have by their endings; containers of pictures have none."""
    endings = Counter(PurePath(record.locator).suffix.lower() for record in source.records)
    counts = {kind.name: sum(endings[e] for e in kind.extensions) for kind in KINDS.values()}
    most = max(counts, key=lambda name: counts[name])
    return KINDS[most if counts[most] else "pixels"]


def register(kind: Kind) -> None:
    """Add your own kind, for the running program.

    Raises:
        ValueError: there is one of that name.
    """
    if kind.name in KINDS:
        raise ValueError(f"kind {kind.name!r} is there already: choose another name than {', '.join(KINDS)}")
    KINDS[kind.name] = kind
    CODECS[kind.name] = kind.settings
    formats.FURTHER.update(kind.extensions)


def kind_of(settings: CodecSettings) -> Kind:
    """The kind that resolved settings name."""
    return registry.resolve("codec.kind", KINDS, settings.kind)
