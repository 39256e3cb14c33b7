import pytest
from uncollapse.core.errors import RunError
from uncollapse.plugins.environments.common import action_named, draw_task, seeded, split_of, stable_hash


def test_the_hash_is_the_first_8_bytes_of_sha256():
    assert stable_hash("abc") == 0xBA7816BF8F01CFEA  # FIPS 180-2, appendix B.1


def test_seeded_depends_on_the_text_of_its_parts():
    assert seeded("a", 1).random() == seeded("a", "1").random()
    assert seeded("a", 1).random() != seeded("a", 2).random()


def test_one_task_in_five_is_validation():
    count = sum(split_of(str(number)) == "validation" for number in range(5000))
    assert count == pytest.approx(1000, abs=142)  # 5 standard deviations


def test_draw_task_skips_failures_and_the_other_split():
    wanted = next(str(number) for number in range(100) if split_of(str(number)) == "validation")
    draws = iter([None, *map(str, range(100))])
    assert draw_task(lambda: next(draws), str, "validation", "numbers") == wanted
    with pytest.raises(RunError, match="no task") as error:
        draw_task(lambda: None, str, "all", "nothing at all")
    assert "nothing at all" in str(error.value)


def test_action_named():
    assert action_named(" uP\n", ("Up", "Down")) == "Up"
    with pytest.raises(ValueError, match="'Left' is not an action; choose one of Up, Down"):
        action_named("Left", ("Up", "Down"))
