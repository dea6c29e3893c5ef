"""Data: from what a user has to pictures that a model can be trained on.

    source = open_source("./pictures")            # recognises the layout, says what it found
    dataset = prepare(source, Pictures(32), cache_dir="prepared")
    train, validation = dataset.split(0.02)

`sources` list, `readers` decode, `prepare` checks and writes, `catalogue` brings public data sets, `sheet` shows them.
"""

from sfumato.data.catalogue import available, get
from sfumato.data.dataset import Dataset
from sfumato.data.faults import DataError, Fault
from sfumato.data.preparation import Report, prepare, scan
from sfumato.data.records import Record, Source
from sfumato.data.sheet import contact_sheet
from sfumato.data.sources import open_source

__all__ = [
    "DataError",
    "Dataset",
    "Fault",
    "Record",
    "Report",
    "Source",
    "available",
    "contact_sheet",
    "get",
    "open_source",
    "prepare",
    "scan",
]
