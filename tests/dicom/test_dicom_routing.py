"""Which route an instance takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import examples

from sonodistill.dicom.errors import NoRouteError
from sonodistill.dicom.routing import covers, route
from sonodistill.dicom.settings import RouteSettings
from sonodistill.dicom.source import US_MULTIFRAME, read_source

RULE = RouteSettings("rule", Path("model.onnx"))


@pytest.fixture(scope="module")
def cine():
    source = read_source(examples.get_path("ybr_color"))
    source.ds.BodyPartExamined = "THYROID"
    source.ds.SeriesDescription = "Neck, left lobe"
    source.ds.TransducerType = "LINEAR"
    return source


@pytest.mark.parametrize(
    ("matching", "covered"),
    [
        ({}, True),
        ({"sop_class": ("cine",)}, True),
        ({"sop_class": ("still",)}, False),
        ({"sop_class": (US_MULTIFRAME,)}, True),
        ({"sop_class": ("still", US_MULTIFRAME)}, True),
        ({"body_part": ("thyroid",)}, True),
        ({"body_part": ("BREAST", "THYROID")}, True),
        ({"body_part": ("THY",)}, False),
        ({"series_description": ("*LOBE*",)}, True),
        ({"series_description": ("lobe",)}, False),
        ({"transducer": ("LIN*",)}, True),
        ({"manufacturer": ("*",), "body_part": ("THYROID",)}, True),
        ({"study_description": ("*",), "body_part": ("BREAST",)}, False),
        ({"body_part": ("THYROID",), "transducer": ("CONVEX",)}, False),
    ],
)
def test_a_rule_covers_what_has_all_that_it_names(cine, matching, covered):
    assert covers(replace(RULE, **matching), cine) is covered


def test_an_attribute_that_is_not_there_matches_nothing(cine):
    del (bare := read_source(cine.path)).ds.Manufacturer
    assert "BodyPartExamined" not in bare.ds
    assert not covers(replace(RULE, body_part=("*",)), bare)
    assert not covers(replace(RULE, manufacturer=("*",)), bare)


def test_the_first_rule_that_covers_it_is_taken(cine):
    rules = [
        replace(RULE, name="stills", sop_class=("still",)),
        replace(RULE, name="thyroid", body_part=("THYROID",)),
        replace(RULE, name="rest", everything=True),
    ]
    assert route(cine, rules).name == "thyroid"
    assert route(read_source(examples.get_path("ybr_color")), rules).name == "rest"


def test_what_no_rule_covers_is_refused_without_its_free_text(cine):
    cine.ds.SeriesDescription = "Mrs Doe's neck"
    with pytest.raises(NoRouteError, match=r"cine .*body part THYROID.*the routes are breast") as caught:
        route(cine, [replace(RULE, name="breast", body_part=("BREAST",))])
    assert "Doe" not in str(caught.value)
