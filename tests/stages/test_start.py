import pyarrow as pa
import pytest

from phicorpus.errors import StoreError
from phicorpus.stages.start import Start
from tests.builders import a_reply, replies


def failed(*names: str, error: str = "StoreUnreachable") -> pa.Table:
    columns = {"status": "error", "error_stage": "fetch", "error_type": error}
    return replies(
        *(a_reply(asset_id=n, task="ocr", error_message="refused", **columns) for n in names)
    )


def good(*names: str) -> pa.Table:
    return replies(*(a_reply(asset_id=name, task="ocr") for name in names))


@pytest.mark.parametrize(
    "error", ["StoreUnreachable", "AccessDenied", "BucketMissing", "StoreStalled"]
)
def test_a_run_that_reads_nothing_ends_before_a_row_is_passed_on(error: str) -> None:
    passed: list[pa.Table] = []

    with pytest.raises(StoreError, match=r"first 3 assets all failed .* refused") as caught:
        passed.extend(
            Start(3).passed(iter([failed("a", "b", error=error), failed("c", error=error)]))
        )

    assert passed == []
    assert caught.value.exit_code == 5


def test_one_asset_that_was_read_lets_all_pass_in_their_order() -> None:
    stream = [failed("a", "b"), good("c"), failed("d", "e"), failed("f")]

    assert list(Start(3).passed(iter(stream))) == stream


@pytest.mark.parametrize("error", ["AssetMissing", "DecodeError", "UriRefused", "FetchError"])
def test_errors_of_assets_themselves_let_all_pass(error: str) -> None:
    stream = [failed("a", "b", "c", "d", error=error)]

    assert list(Start(3).passed(iter(stream))) == stream


def test_fewer_failures_than_the_limit_become_rows_when_the_stream_ends() -> None:
    start = Start(3)

    assert len(list(start.passed(iter([failed("a"), failed("b")])))) == 2
    with pytest.raises(StoreError):
        list(start.passed(iter([failed("c")])))


def test_rows_of_one_asset_count_once() -> None:
    stream = [failed("a", "a", "a", "a")]

    assert list(Start(3).passed(iter(stream))) == stream


def test_without_a_limit_all_pass_at_once() -> None:
    stream = [failed(str(number)) for number in range(100)]

    assert list(Start(None).passed(iter(stream))) == stream
