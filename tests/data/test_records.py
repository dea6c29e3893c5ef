"""A record of a picture, before the picture is read."""

from dataclasses import fields, replace

from sfumato.data.records import Record


def test_a_labelled_record_differs_in_its_label_alone() -> None:
    given = ("a/b.png", lambda: b"", ("a cat",), "old", "CC0", "here", 7, (7, 8), "film", ())
    assert len(given) == len(fields(Record))
    record = Record(*given)
    assert record.labelled("cat") == replace(record, label="cat")
    assert record.labelled("cat").fetch is record.fetch
