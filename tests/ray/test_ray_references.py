"""Ray's references, as arguments of nodes and in their results."""

from __future__ import annotations

import pytest
import ray
import ray_functions as functions
from ray_runs import actions, kept

from functionfuse import workflow
from functionfuse.errors import FingerprintError, UnpicklableResultError
from functionfuse.reuse.values import digest_of
from functionfuse.storage.filestorage import FileStorage

pytestmark = pytest.mark.usefixtures("ray_up")


@pytest.mark.parametrize("stored", [True, False])
def test_a_function_gets_what_a_task_of_ray_gets(storage, stored) -> None:
    """The value of a reference that is an argument itself; any other reference as it is."""
    reference = ray.put([1, 2])
    nested = {"refs": [reference, ray.put(3)], "held": functions.Holder(reference)}
    expected = ray.get(ray.remote(functions.seen.func).remote(reference, nested, second=reference))
    assert [1, 2] == expected[0]
    plain = functions.seen(reference, nested, second=reference).set_name("plain")
    among = {**nested, "refs": [reference, functions.number(3).set_name("three")]}
    mixed = workflow(lambda given: (ray.get(given["refs"][0]), given["refs"][1]))(among)
    called = functions.Sees(reference, nested, reference).again(reference, nested, reference)
    flow = kept(storage if stored else None, plain, mixed, called)
    flow.query("plain|again.*").set_retries(1, delay=0)
    found = flow.run(return_results=True)
    assert [expected, ([1, 2], 3), (expected, expected)] == found


def test_results_with_references() -> None:
    """Nodes and the caller get references that lead to their values, and handles of actors."""
    made = functions.put(2).set_name("made")
    flow = kept(None, made, *[functions.got(made) for _ in range(3)])
    value, *found = flow.run(return_results=True)
    assert {(200_000, 2)} == {each[:2] for each in found}
    assert [3, 4, 5] == sorted(each[2] for each in found)
    assert (200_000, 2, 6) == functions.got.func(value)


def test_a_function_that_has_a_reference() -> None:
    """In a variable that goes to the workers with its code; each function has its own."""

    def reads(reference):
        return workflow(lambda more: ray.get(reference) + more)

    nodes = [reads(ray.put(n))(ray.put(1)).set_name(f"read {n}") for n in range(3)]
    assert [1, 2, 3] == kept(None, *nodes).run(return_results=True)


def test_an_error_behind_a_reference() -> None:
    """It is the error of the node that takes the value; the function isn't called."""
    failed = ray.remote(max_retries=0)(functions.fail.func).remote("it is gone")
    flow = kept(None, functions.number(failed).set_name("takes"), functions.number(1))
    with pytest.raises(LookupError, match="it is gone") as raised:
        flow.run()
    assert "in node 'takes'" in "\n".join(raised.value.__notes__)
    assert {"takes": "failed", "number_0000": "computed"} == actions(flow)


def test_an_error_with_references() -> None:
    """It keeps its type; the references, which would lead to nothing here, are text."""

    @workflow
    def fails():
        error = ValueError(ray.put(1), [functions.Adds.remote()])
        error.more = functions.Holder(ray.put(2))
        raise error

    with pytest.raises(ValueError, match="ObjectRef") as raised:
        kept(None, fails()).run()
    reference, [actor] = raised.value.args
    assert reference.startswith("ObjectRef(")
    assert actor.startswith("Actor(Adds")
    assert raised.value.more.reference.startswith("ObjectRef(")
    assert "can't be in an error" in "\n".join(raised.value.__notes__)


def test_a_stored_result_with_references_is_refused(storage) -> None:
    """With the cure; the run goes on with other nodes."""
    made = workflow(lambda: {"x": [ray.put(1)]})().set_name("made")
    flow = kept(storage, made, functions.number(1).set_name("one"))
    with pytest.raises(UnpicklableResultError, match=r"ray\.get\(\) of it"):
        flow.run()
    assert {"made": "failed", "one": "computed"} == actions(flow)


def test_what_takes_a_reference_is_not_reused(storage) -> None:
    """In a new cluster, another value has the same identifier."""
    for value in (1, 2):
        flow = kept(storage, functions.number(ray.put(value)).set_name("takes"))
        assert value == flow.run(return_results=True)
        assert "computed" == flow.report["takes"].action
    assert "refers to data elsewhere" in flow.report["takes"].reason
    for reference in (ray.put(1), functions.Adds.remote()):
        with pytest.raises(FingerprintError, match="refers to data elsewhere"):
            digest_of([reference])


def test_a_storage_that_keeps_results_in_an_actor(tmp_path) -> None:
    """It goes to the workers with the handle and the reference that it holds."""

    class Keeps:
        def __init__(self):
            self.kept = {}

        def change(self, key, value):
            self.kept[key] = value

        def value(self, key):
            return self.kept.get(key)

    class ByActor(FileStorage):
        """Notes in the actor what it saves, with the value behind a reference."""

        def __init__(self, actor, reference, path):
            super().__init__(path)
            self.given = actor, reference, path

        def __reduce__(self):
            return ByActor, self.given

        def save(self, workflow_name, name, value, **about):
            actor, [reference], _ = self.given
            ray.get(actor.change.remote(name, (ray.get(reference), value)))
            return super().save(workflow_name, name, value, **about)

    actor = ray.remote(num_cpus=0)(Keeps).remote()
    storage = ByActor(actor, [ray.put("kept")], str(tmp_path))
    flow = kept(storage, functions.plus(functions.number(1), 1).set_name("two"))
    flow.query("two").set_remote_args({"runtime_env": {"env_vars": {"PLACE": "other"}}})
    assert 2 == flow.run(return_results=True)  # that process is checked before its first node
    assert ("kept", 2) == ray.get(actor.value.remote("two"))
