"""The kit's own test: what breaks one promise fails the test of that promise.

`broken_kit.py` has a suite for each broken store, serializer and backend. The tests that are named
below are run in one process of pytest, and every one must fail there; on what is sound they pass,
which `test_kit_on_files.py` and its neighbours see to.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import broken_plugins
import broken_stores
import pytest
from broken_copies import COPIES
from broken_earlier import EARLIER
from broken_runs import RUNS

HERE = Path(__file__).parent
CAUGHT_BY = {
    "LiesAboutSuccess": "test_another_process_finds_the_same_blobs",
    "SwallowsErrors": "test_a_put_that_fails_changes_nothing[False-None]",
    "PartialPut": "test_killed_in_mid_put[1000]",
    "GoneForAMoment": "test_processes_read_while_others_write[small]",
    "IgnoresIfAbsent": "test_if_absent_leaves_what_is_there",
    "ChecksFirst": "test_if_absent_holds_until_the_end_of_a_put",
    "OneTemporaryName": "test_threads_write_one_key",
    "LeavesTemporaries": "test_if_absent_leaves_what_is_there",
    "LocksForEver": "test_killed_in_mid_put[None]",
    "WritesText": "test_bytes_are_bytes[line ends]",
    "LosesEmptyBlobs": "test_no_parts_make_an_empty_blob",
    "LosesManyParts": "test_thousands_of_parts",
    "SortsParts": "test_parts_are_joined_in_their_order",
    "CutsAt64KiB": "test_a_blob_of_any_size_comes_back[65536]",
    "CutsKeys": "test_listing_is_in_the_order_of_keys[long]",
    "FoldsCase": "test_upper_and_lower_case_are_two_keys",
    "ListsPlaces": "test_listing_is_in_the_order_of_keys[folders among blobs]",
    "Unordered": "test_listing_is_in_the_order_of_keys[numbers are text]",
    "ListsEagerly": "test_a_listing_does_not_read_far_ahead",
    "ListsThePast": "test_a_listing_is_never_of_the_past",
    "ListsOnePage": "test_thousands_of_keys",
    "ListsTemporaries": "test_readers_see_nothing_of_a_put_that_is_at_work",
    "TellsMilliseconds": "test_a_listing_tells_size_and_time",
    "LeavesOutHeads": "test_heads_of_a_folder[2]",
    "OneEtag": "test_an_etag_differs_when_the_bytes_do",
    "ForgetsDelete": "test_thousands_of_keys",
    "DeletesByPrefix": "test_delete_removes",
    "DeleteRaises": "test_delete_of_what_is_not_there",
    "WrongErrorForMissing": "test_a_missing_blob_is_not_found[w/none]",
    "HeadOfNothing": "test_a_missing_blob_is_not_found[w/none]",
    "TornGet": "test_processes_read_while_others_write[big]",
    "OneBuffer": "test_what_was_got_stays[replaced-100]",
    "SharesTheFile": "test_what_is_got_belongs_to_the_caller[5000]",
    "WritesInPlace": "test_killed_at_any_time[big]",
    "PicklesItsLock": "test_another_process_finds_the_same_blobs",
    "PicklesItsCache": "test_a_pickle_holds_no_blobs",
    "SharesAClient": "test_use_after_a_fork",
    "Aliases": "test_what_is_got_belongs_to_the_caller[10]",
    "KeepsParts": "test_parts_that_change_later_change_no_blob",
    "StopsAtTheSize": "test_streamed_parts[False-error]",
    "ListsFolders": "test_a_prefix_is_text[w/ta]",
    "ThreadsDisturb": "test_threads_read_while_one_writes[small]",
    "DeletesWhileListing": "test_a_listing_while_blobs_come_and_go",
    "CopiesTheBeginning": "test_a_copy_has_the_same_bytes[9437184]",
    "CopiesInPlace": "test_threads_read_while_copies_replace[small]",
    "CopiesTheTime": "test_a_copy_is_young",
    "Moves": "test_a_copy_has_the_same_bytes[4096]",
    "CopiesNothing": "test_a_copy_of_nothing[w/none-None]",
    "RemovesFirst": "test_a_copy_of_nothing[w/none-before]",
    "RemovesItself": "test_a_copy_onto_itself[3]",
    "KeepsTheTarget": "test_a_copy_replaces[10-5]",
    "LeavesLinks": "test_a_copy_is_made_again",
    "SharesBytes": "test_a_change_of_one_leaves_the_other[w/a-w/.c/b-10]",
    "HidesEarlier": "test_prune_keeps_the_newest_of_each_task",
    "KeepsTheLatest": "test_a_run_goes_back[here]",
    "NeverGoesBack": "test_a_run_goes_back[here]",
    "RestoresNothing": "test_a_run_goes_back[threads]",
    "OldestFirst": "test_earlier_results_are_listed",
    "IgnoresCalls": "test_a_result_is_read_by_its_call",
    "CollectsTooMuch": "test_side_data_of_earlier_results_is_no_leftover",
    "PrunesOnATrial": "test_prune_removes_tasks_that_are_no_longer_nodes",
    "PrunesTheLatest": "test_what_the_latest_result_refers_to_stays",
    "LeavesSideData": "test_prune_by_size_and_age",
    "CountsAllAsOne": "test_usage_has_earlier_results_apart",
    "ChecksTheLatest": "test_a_damaged_earlier_result[value]",
    "RemovesTheLatest": "test_a_removal_removes_earlier_results",
    "OneName": "test_results_share_no_file[files]",
    "LosesTypes": "test_values_come_back[files]",
    "Remembers": "test_another_storage_reads_it[files]",
    "ReadsWhatItFinds": "test_a_cut_file_is_damage[files-half]",
    "PidOfItsOwn": "test_the_pid_is_plain[files]",
    "LeavesFiles": "test_values_come_back[files]",
    "LeavesOpen": "test_no_file_stays_open[files]",
    "AnotherNameEachTime": "test_it_keeps_its_name",
    "ChangesTheValue": "test_saving_changes_nothing[staged files]",
    "RemovesNothing": "test_pickle_returns_name_and_pid[staged files]",
    "ComputesAlways": "test_a_second_run_computes_nothing",
    "TakesWhateverIsThere": "test_a_changed_argument",
    "ReturnsAnyway": "test_a_failing_node",
    "LosesWhatDoesNotFit": "test_a_storage_that_is_full",
    "SwallowsInterrupts": "test_an_interrupt_in_a_node",
    "TriesAgain": "test_a_failing_node",
    "NoPlugins": "test_a_node_plugin",
    "LosesAnOutcome": "test_a_chain_and_a_diamond",
    "TellsTwice": "test_one_node_gives_one_result",
    "CallsTwice": "test_one_node_gives_one_result",
    "TakesCallsForPure": "test_equal_calls_are_made_each",
    "SendsAllThroughTheDriver": "test_values_stay_with_the_workers[False]",
    "EndsBeforeItsNodes": "test_the_report_of_a_run_that_failed[error]",
    "SwallowsCtrlC": "test_ctrl_c",
    "ForgetsWhatRan": "test_the_report_of_a_run_that_failed[error]",
    "FailsFast": "test_a_run_keeps_going[True]",
    "TakesCtrlCForAnError": "test_a_run_that_keeps_going_ends[interrupt]",
    "RunsTheQueue": "test_a_run_that_keeps_going_ends[storage]",
    "HidesAFullStorage": "test_a_run_that_keeps_going_ends[storage]",
    "DropsAgain": "test_a_node_is_tried_again[True]",
    "ComparesClasses": "test_a_node_is_tried_again[True]",
    "AnswersByKey": "test_a_node_is_tried_again[False]",
    "KeepsTheFirstJob": "test_a_node_is_tried_again[False]",
    "RunsAgainItself": "test_how_often_a_node_is_tried[LookupError-3]",
    "TriesAgainAfterAll": "test_how_often_a_node_is_tried[OSError-1]",
    "SwallowsTimeouts": "test_a_timeout",
    "ChecksTimeoutsHere": "test_a_timeout",
    "IgnoresResources": "test_resources",
    "NeverFrees": "test_resources",
    "HidesItsResources": "test_resources_that_are_not_there[too much]",
    "LosesSeconds": "test_events",
    "LosesNames": "test_the_current_node",
    "HandlesOfOneRun": "test_a_graph_that_grows[False]",
}
KINDS = [*broken_stores.kinds(), *COPIES, *EARLIER]
KINDS += [*broken_plugins.SERIALIZERS, *broken_plugins.BACKENDS, *RUNS]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return what was said of each broken thing: "" for a test that passed.

    What breaks only in a race may win it: that is tried again.
    """
    found: dict[str, str] = {}
    for _ in range(10):
        if left := [kind for kind in CAUGHT_BY if not found.get(kind)]:
            found |= tried(left, tmp_path_factory.mktemp("kit") / "report.xml")
    return found


def tried(kinds: list[str], report: Path) -> dict[str, str]:
    """Run the tests that are to catch some broken things; return what was said of each."""
    tests = [f"{HERE}/broken_kit.py::Test{kind}::{CAUGHT_BY[kind]}" for kind in kinds]
    options = ["-q", "--tb=short", "-p", "no:cacheprovider", f"--junitxml={report}"]
    path = os.pathsep.join([str(HERE.parent / "importable"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        env=os.environ | {"PYTHONPATH": path, "CI": "true"},  # where pytest shows all of two values
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return {
        case.attrib["classname"].rpartition(".Test")[2]: "".join(
            found.attrib["message"] for found in case if found.tag in ("failure", "error")
        )
        for case in ET.parse(report).iter("testcase")
    }


def test_every_broken_thing_is_tried() -> None:
    """None is forgotten, and the kit is tried on many."""
    assert [kind.__name__ for kind in KINDS] == list(CAUGHT_BY)
    assert 12 <= len(list(broken_stores.kinds()))


@pytest.mark.parametrize("kind", CAUGHT_BY)
def test_it_is_caught(kind: str, outcomes: dict[str, str]) -> None:
    """By the test of the promise that it breaks."""
    assert outcomes[kind], f"{CAUGHT_BY[kind]} passed on {kind}"
