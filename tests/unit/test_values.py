"""Media from whatever one has, and what many vectors an item score."""

from __future__ import annotations

import base64
import copy
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jina_sm import errors, values
from jina_sm.errors import InputError
from jina_sm.values import Media, MultiVector, Usage, Vectors

PNG = b"\x89PNG\r\n\x1a\n and more"
IMAGES = [PNG, b"\xff\xd8\xff\xe0 JPEG", b"GIF89a", b"RIFF\n\x00\x00\x00WEBPVP8 ", b"BM...", b"II*\0", b"MM\0*"]


class Painted:
    """An image as PIL has it."""

    def __init__(self, mode: str = "RGB") -> None:
        self.mode = mode

    def save(self, fp: io.BytesIO, /, *, format: str) -> None:  # noqa: A002  PIL's own word
        if self.mode == "CMYK":
            raise OSError("cannot write mode CMYK as PNG")
        fp.write(PNG + format.encode())


@pytest.mark.parametrize("content", IMAGES)
def test_an_image_is_known_by_its_first_bytes(content: bytes) -> None:
    assert values.image(content) == values.image(bytearray(content)) == Media("image", content)


def test_media_are_read_from_a_path_a_url_or_a_data_uri(tmp_path: Path) -> None:
    file = tmp_path / "cat.png"
    file.write_bytes(PNG)
    assert values.image(file) == values.image(str(file)) == Media("image", PNG)
    url = "https://example.org/cat.png"
    assert values.image(url) == Media("image", url)
    coded = base64.b64encode(PNG).decode()
    assert (
        values.image(f"data:image/png;base64,{coded}") == values.image(f"data:;base64,{coded}") == Media("image", PNG)
    )
    assert values.pdf("data:application/pdf,%25PDF%20a") == Media("pdf", b"%PDF a")
    assert values.audio("data:audio/wav;base64,AAAA") == Media("audio", b"\0\0\0")
    assert values.video(b"anything") == Media("video", b"anything")


def test_an_image_of_pil_is_sent_as_png() -> None:
    assert values.image(Painted()) == Media("image", PNG + b"PNG")
    with pytest.raises(InputError, match=r"mode CMYK as PNG\. Convert it to RGB"):
        values.image(Painted("CMYK"))


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (b"", "the image is empty"),
        (b"%PDF-1.4", r"begins b'%PDF-1.4', as no PNG, JPEG"),
        ("{}/none.png", r"none.png' cannot be read: No such file"),
        ("{}", r"is a directory, and no image"),
        ("{}/empty", "the image is empty"),
        ("x" * 5000, r"x…? cannot be read: File name too long"),
        ("a\0b", "cannot be read: "),
        ("s3://bucket/cat.png", "an endpoint cannot fetch 's3://bucket/cat.png'. Fetch it from s3 and pass the bytes"),
        ("https://example.org/a cat.png", "not an http"),
        ("data:image/png;base64,???", "is not base64"),
        ("data:image/png", "begins data:image/"),
        ("data:text/plain,abc", "is not the data: URI of images"),
        (3, "is a int, and neither bytes, a path"),
        (None, "is a NoneType"),
    ],
)
def test_what_is_no_image_is_refused_by_name(tmp_path: Path, source: Any, why: str) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(InputError, match=why):
        values.image(source.format(tmp_path) if isinstance(source, str) else source)


def many(*vectors: Vectors) -> MultiVector:
    return MultiVector(vectors, Usage(7, 1), "jina-colbert-v2")


small = st.floats(-8, 8, width=32)


@given(st.data(), st.integers(1, 4), st.integers(1, 5), st.lists(st.integers(1, 5), max_size=6), st.integers(1, 40))
def test_maxsim_sums_over_the_query_the_best_of_the_document(
    data: st.DataObject, width: int, asked: int, lengths: list[int], slab: int
) -> None:
    query = data.draw(hnp.arrays(np.float32, (asked, width), elements=small))
    documents = [data.draw(hnp.arrays(np.float32, (length, width), elements=small)) for length in lengths]
    naive = [sum(max(float(q @ d) for d in document) for q in query) for document in documents]
    scores = many(*documents).maxsim(query, slab=slab)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, naive, rtol=1e-4, atol=1e-3)
    if documents:
        np.testing.assert_array_equal(many(*documents).maxsim(many(query)), many(*documents).maxsim(query))


def test_many_vectors_are_a_sequence_of_arrays_and_show_themselves() -> None:
    first, second = np.ones((2, 3), np.float32), np.zeros((1, 3), np.float32)
    both = many(first, second)
    assert (len(both), both.dimensions, both[1] is second, [len(each) for each in both]) == (2, 3, True, [2, 1])
    assert repr(both) == "MultiVector(2 items, 3 vectors of 3 float32, 7 tokens, jina-colbert-v2)"
    assert "<td>1.0000</td>" in both._repr_html_()
    assert repr(many()) in many()._repr_html_()


@pytest.mark.parametrize(
    "wrong", [np.ones((2, 3)), np.ones(3, np.float32), np.ones((0, 3), np.float32), np.ones((2, 4), np.float32)]
)
def test_vectors_of_another_shape_are_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match="not float"):
        many(np.ones((2, 3), np.float32), wrong)


def test_maxsim_refuses_two_queries_and_another_length() -> None:
    one = np.ones((2, 3), np.float32)
    with pytest.raises(InputError, match=r"takes one query, not 2\. Pass queries\[0\]"):
        many(one).maxsim(many(one, one))
    for wrong in (np.ones((2, 4), np.float32), np.ones(3, np.float32)):
        with pytest.raises(InputError, match="and not"):
            many(one).maxsim(wrong)


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=1, max_dims=2),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    )
)
def test_normalized_rows_have_length_one_and_zeros_stay(given_rows: Vectors) -> None:
    unit = values.normalized(given_rows)
    assert (unit.dtype, unit.shape) == (np.float32, given_rows.shape)
    lengths = np.linalg.norm(unit.astype(np.float64), axis=-1)
    np.testing.assert_allclose(lengths, given_rows.any(axis=-1), atol=1e-6)
    np.testing.assert_array_equal(np.sign(unit) * (unit != 0), np.sign(given_rows) * (unit != 0))


@pytest.mark.parametrize(
    "error",
    [
        errors.MissingExtraError("Reading", "tokenizer"),
        errors.PartialError("half", done=("a",), failed={"b": errors.QuotaError("no", region="r")}),
        errors.ThrottledError("no", retry_after_s=2.0),
    ],
)
def test_an_error_can_be_copied_and_sent_to_another_process(error: errors.JinaSMError) -> None:
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (type(twin), str(twin), twin.args) == (type(error), str(error), error.args)
        assert twin.__dict__.keys() == error.__dict__.keys()
