"""The field numbers that bundles are checked with are ONNX's own."""

from __future__ import annotations

import pytest

from asa_engine.artifacts.onnx_graph import FIELDS

onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")


def test_every_way_to_a_tensor_is_known() -> None:
    own: dict[str, dict[int, str]] = {"StringStringEntryProto": {}}
    leads = {"TensorProto"}
    messages = onnx.onnx_ml_pb2.DESCRIPTOR.message_types_by_name
    inside = {
        name: {f.number: f.message_type.name for f in message.fields if f.message_type}
        for name, message in messages.items()
    }
    while True:
        more = {name for name, fields in inside.items() if leads & set(fields.values())} - leads
        if not more:
            break
        leads |= more
    for name in leads:
        own[name] = {n: kind for n, kind in inside[name].items() if kind in leads}
    external = messages["TensorProto"].fields_by_name["external_data"].number
    own["TensorProto"][external] = "StringStringEntryProto"
    del own["StringStringEntryProto"]
    assert own == FIELDS
