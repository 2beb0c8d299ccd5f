"""How a model loaded from a folder is named: directories of the machine that runs it do not leave it."""

from __future__ import annotations

import pytest

from cutaway import conventions as c
from cutaway.testing import recorded, tiny_model
from sdk_helpers import batch


@pytest.mark.parametrize(("given", "span_name", "attribute"), [
    ("tiny-llama", "tiny-llama", "tiny-llama"),
    ("owner/tiny-llama", "owner/tiny-llama", "owner/tiny-llama"),
    ("/home/ann/models/tiny-llama/", "tiny-llama", "tiny-llama"),
    ("~/models/tiny-llama", "tiny-llama", "tiny-llama"),
    ("C:\\models\\tiny-llama", "tiny-llama", "tiny-llama"),
    ("./tiny-llama", "tiny-llama", "./tiny-llama"),
    ("models/owner/tiny-llama", "tiny-llama", "models/owner/tiny-llama"),
])
def test_a_path_is_shortened(given: str, span_name: str, attribute: str) -> None:
    """The span has the last part of a path; the attributes have the whole name unless it is an absolute path."""
    model = tiny_model()
    model.config.name_or_path = given
    with recorded() as spans:
        model.generate(batch(1)[0], max_new_tokens=2, do_sample=False)
    (span,) = spans.get_finished_spans()

    assert span.name == f"text_completion {span_name}"
    assert span.attributes[c.REQUEST_MODEL] == span.attributes[c.RESPONSE_MODEL] == attribute
