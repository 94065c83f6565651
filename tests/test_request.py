"""When two requests are the same."""

import dataclasses

from standin import ask

SCHEMA = {"type": "object", "properties": {"a": {"type": "number"}}}


def test_a_schema_makes_another_request():
    plain = ask()
    one, same, other = (dataclasses.replace(plain, schema=schema) for schema in (SCHEMA, dict(SCHEMA), {}))
    assert one.key == same.key
    assert len({plain.key, one.key, other.key}) == 3
    assert hash(one) == hash(same)
    assert dataclasses.replace(one, schema=None) == plain
    assert dataclasses.replace(one, schema=None).key == plain.key


def test_keys_of_requests_without_a_schema_stay_what_they_were():
    assert ask().key == "5ff54f064d61bd68422479d5a6b8c7de"  # reply stores of earlier runs stay good
