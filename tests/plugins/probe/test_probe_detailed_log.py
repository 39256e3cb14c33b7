import gzip
import json
import logging
import math
import shutil
import subprocess
from datetime import datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import attrs
import pytest
import torch
from uncollapse.core.components import Answer, Rollouts
from uncollapse.core.errors import RequestError, RunError
from uncollapse.core.yaml import loads
from uncollapse.plugins.probe.log_settings import DetailedLogging
from uncollapse.plugins.probe.logs import detailed_log
from uncollapse.plugins.probe.logs import files as log_files
from uncollapse.plugins.probe.logs.detailed_log import SECTIONS, DetailedLogger, LoggedBatch
from uncollapse.plugins.probe.logs.files import LogFiles, label, prune
from uncollapse.plugins.probe.sampling.samples import Sample
from uncollapse.plugins.rollout.episode import Episode, Turn

CONFIG = {"batch_config": {"B_E": 2, "B_U": 1, "G": 2}, "learning_rate": 2e-6, "a": None}
RESULTS = {
    "bars_dot": -3.0,
    "deltaH1": -6e-6,
    "deltaH_true": -0.25,
    "learning_rate": 2e-6,
    "B_E": 2,
    "B_U": 1,
    "G": 2,
    "mb_size_prompts": 2,
    "weighting_mode": "dr_grpo",
    "timing": {"phase0_sampling": 1.5},
    "V_X": 7.0,
}
TRUTH = {
    "H_orig": 2.5,
    "H_upd": 2.25,
    "deltaH_true": -0.25,
    "diagnostics": {"ESS": 1.9, "w_max": 1.1},
    "H_orig_tok": 0.5,
}
S_ORIG, S_UPD = [-2.0, -4.0], [-2.0, -4.0 + math.log(3)]
RB_ORIG, RB_UPD = [1.5, 2.0], [1.0, 2.0]
NINE = {
    "run_metadata",
    "core_results",
    "timing",
    "ground_truth",
    "batch_statistics",
    "sequences",
    "token_data",
    "raw_tensors",
    "debug_info",
}


class Words:
    """Decodes ids as ``<id>``."""

    def decode(self, ids):
        return "".join(f"<{token}>" for token in ids)


def sample(tokens, mask, lengths, episodes, groups, tasks, rewards, responses):
    """Episodes of one turn each, whose rows may be several; their prompt is the first token."""
    mask_B_T, rows = torch.tensor(mask).bool(), torch.tensor(episodes)
    sampled = [int(mask_B_T[rows == index].sum()) for index in range(len(responses))]
    turns = [Turn((5,), (9,) * n, (0.0,) * n, "eos", "", text, Answer(), 0, 0.0, 0.0)
             for n, text in zip(sampled, responses, strict=True)]  # fmt: skip
    groups_S = torch.tensor(groups)
    rollouts = Rollouts(
        tokens=torch.tensor(tokens),
        mask=mask_B_T,
        turns=mask_B_T.long() - 1,
        logprobs=torch.zeros(mask_B_T.shape),
        rewards=torch.zeros(mask_B_T.shape),
        episodes=rows,
        groups=groups_S[rows],
        raw_rewards_E=torch.tensor(rewards),
        group_ids_P=groups_S.unique(),
        lengths=torch.tensor(lengths),
    )
    return Sample([Episode(0, 0, "", (turn,), "done", {}) for turn in turns], rollouts, tuple(tasks), 0.0)


def e_batch(**changes):
    """Prompt 7 drawn twice: two draws of one sequence each, of 2 and 3 sampled tokens."""
    tokens, mask = [[5, 6, 7, 0], [5, 8, 9, 1]], [[0, 1, 1, 0], [0, 1, 1, 1]]
    return LoggedBatch(
        **{
            "name": "E_batch",
            "sample": sample(tokens, mask, [3, 4], [0, 1], [0, 1], [7, 7], [1.0, 0.0], ["five", "5 €"]),
            "tokenizer": Words(),
            "logprobs": torch.tensor([[math.nan, -1.0, -0.5, 0.0], [9.0, -0.25, -0.25, -0.5]]),
            "entropies": torch.tensor([[9.0, 1.0, 0.5, 9.0], [9.0, 0.5, 0.75, 0.75]]),
            "importance_weights": torch.tensor([0.5, 1.25]),
        }
        | changes
    )


U_ROWS = ([[5, 6, 0, 0], [5, 6, 4, 8], [5, 9, 0, 0]], [[0, 1, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0]], [2, 4, 2])


def u_batch(**changes):
    """One prompt, two sequences; the first took two turns, and is two rows."""
    return LoggedBatch(
        **{
            "name": "U_batch",
            "sample": sample(*U_ROWS, [0, 0, 1], [0, 0], [11], [1.0, 0.0], ["left | right", "up"]),
            "tokenizer": Words(),
            "logprobs": torch.tensor([[0, -1.0, 0, 0], [0, -8.0, 0, -2.0], [0, -0.5, 0, 0]]),
            "entropies": torch.tensor([[0, 0.5, 0, 0], [0, 8.0, 0, 0.25], [0, 0.125, 0, 0]]),
            "advantages": torch.tensor([0.5, -0.5]),
        }
        | changes
    )


def settings(directory, **changes):
    return DetailedLogging(**{"enabled": True, "output_directory": str(directory)} | changes)


def everything(directory, **changes):
    return settings(
        directory, **{"level": "debug", "log_sequences": True, "log_tokens": True, "log_raw_tensors": True} | changes
    )


def record(chosen, checkpoint="runs/step_60/model"):
    """Log all that there is; -> the main file."""
    with DetailedLogger(chosen) as logger:
        logger.log_run_start(checkpoint, CONFIG)
        logger.log_phase_start("prediction")
        logger.log_phase_end("prediction")
        logger.log_batch_data(e_batch())
        logger.log_batch_data(u_batch())
        logger.log_importance_sampling_details(S_ORIG, S_UPD, RB_ORIG, RB_UPD)
        return logger.finalize_log(RESULTS | TRUTH)


def strict(text):
    def refuse(constant):
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse)


def read(main):
    return strict(gzip.decompress(main.read_bytes()) if main.suffix == ".gz" else main.read_text())


def summary_of(main):
    return strict((main.parent / read(main)["run_metadata"]["files"]["summary"]).read_text())


CORE = {key: RESULTS[key] for key in RESULTS if key not in ("timing", "V_X")}
E_STATISTICS = {
    "num_prompts": 2,
    "num_sequences": 2,
    "G": 1,
    "avg_prompt_length": 1.0,
    "max_sequence_length": 4,
    "avg_generation_length": 2.5,
    "std_generation_length": pytest.approx(math.sqrt(0.5)),
    "min_generation_length": 2.0,
    "max_generation_length": 3.0,
    "generation_length_percentiles": pytest.approx([2.1, 2.25, 2.5, 2.75, 2.9]),
    "avg_advantages": 0.0,
    "std_advantages": 0.0,
    "avg_reward": 0.5,
    "std_reward": pytest.approx(math.sqrt(0.5)),
    "min_reward": 0.0,
    "max_reward": 1.0,
}
U_STATISTICS = {
    "num_prompts": 1,
    "num_sequences": 2,
    "G": 2,
    "avg_prompt_length": 1.0,
    "max_sequence_length": 4,
    "avg_generation_length": 1.5,
    "std_generation_length": pytest.approx(math.sqrt(0.5)),
    "min_generation_length": 1.0,
    "max_generation_length": 2.0,
    "generation_length_percentiles": pytest.approx([1.1, 1.25, 1.5, 1.75, 1.9]),
    "avg_advantages": 0.0,
    "std_advantages": pytest.approx(math.sqrt(0.5)),
    "avg_reward": 0.5,
    "std_reward": pytest.approx(math.sqrt(0.5)),
    "min_reward": 0.0,
    "max_reward": 1.0,
}
E_SEQUENCES = [
    {
        "prompt_id": 7,
        "prompt_text": "<5>",
        "response_text": "five",
        "prompt_length": 1,
        "generation_length": 2,
        "sequence_logprob": -1.5,
        "rb_entropy": 1.5,
        "importance_weight": 0.5,
        "advantage": 0.0,
    },
    {
        "prompt_id": 7,
        "prompt_text": "<5>",
        "response_text": "5 €",
        "prompt_length": 1,
        "generation_length": 3,
        "sequence_logprob": -1.0,
        "rb_entropy": 2.0,
        "importance_weight": 1.25,
        "advantage": 0.0,
    },
]
U_SEQUENCES = [
    {
        "prompt_id": 11,
        "prompt_text": "<5>",
        "responses": [
            {
                "response_id": 0,
                "response_text": "left | right",
                "generation_length": 2,
                "sequence_logprob": -3.0,
                "rb_entropy": 0.75,
                "reward": 1.0,
                "advantage": 0.5,
            },
            {
                "response_id": 1,
                "response_text": "up",
                "generation_length": 1,
                "sequence_logprob": -0.5,
                "rb_entropy": 0.125,
                "reward": 0.0,
                "advantage": -0.5,
            },
        ],
    }
]


def spread(mean, std, least, most):
    return {"mean": pytest.approx(mean), "std": pytest.approx(std), "min": least, "max": pytest.approx(most)}


DETAILS = {
    "logw_stats": spread(math.log(3) / 2, math.log(3) / math.sqrt(2), 0.0, math.log(3)),
    "weight_stats": spread(2.0, math.sqrt(2), 1.0, 3.0),
    "S_orig_stats": spread(-3.0, math.sqrt(2), -4.0, -2.0) | {"shape": [2]},
    "S_upd_stats": spread(-3 + math.log(3) / 2, (2 - math.log(3)) / math.sqrt(2), pytest.approx(S_UPD[1]), -2.0)
    | {"shape": [2]},
    "RB_orig_stats": spread(1.75, math.sqrt(0.125), 1.5, 2.0) | {"shape": [2]},
    "RB_upd_stats": spread(1.5, math.sqrt(0.5), 1.0, 2.0) | {"shape": [2]},
}
EMPTY = {name: {} for name in ("ground_truth", "batch_statistics", "sequences", "token_data", "raw_tensors")}


def contents(log):
    """All but metadata and times."""
    return {name: log[name] for name in SECTIONS if name not in ("run_metadata", "timing")}


def test_minimal_has_results_and_times_only(tmp_path):
    log = read(record(everything(tmp_path, level="minimal")))
    assert set(log) == NINE
    assert contents(log) == EMPTY | {"core_results": CORE, "debug_info": {}}
    assert set(log["timing"]) == {"prediction_time", "phase0_sampling", "total_time"}
    assert log["timing"]["phase0_sampling"] == 1.5
    assert 0 <= log["timing"]["prediction_time"] <= log["timing"]["total_time"]


def test_standard_adds_statistics_and_the_ground_truth(tmp_path):
    log = read(record(everything(tmp_path, level="standard")))
    assert contents(log) == EMPTY | {
        "core_results": CORE,
        "ground_truth": TRUTH,
        "batch_statistics": {"E_batch": E_STATISTICS, "U_batch": U_STATISTICS},
        "debug_info": {},
    }


def test_detailed_adds_sequences_weights_and_results_of_phases(tmp_path):
    log = read(record(everything(tmp_path, level="detailed")))
    assert contents(log) == EMPTY | {
        "core_results": CORE,
        "ground_truth": TRUTH | {"importance_sampling_details": DETAILS},
        "batch_statistics": {"E_batch": E_STATISTICS, "U_batch": U_STATISTICS},
        "sequences": {"E_batch": E_SEQUENCES, "U_batch": U_SEQUENCES},
        "debug_info": {},
    }


def test_debug_adds_tokens_and_tensors(tmp_path):
    log = read(record(everything(tmp_path)))
    assert log["token_data"]["E_batch"] == [
        {
            "prompt_id": 7,
            "response_id": 0,
            "tokens": [5, 6, 7],
            "token_texts": ["<5>", "<6>", "<7>"],
            "token_logprobs": [None, -1.0, -0.5],
            "rb_entropies": [None, 1.0, 0.5],
            "attention_mask": [1, 1, 1],
            "sampled_mask": [0, 1, 1],
        },
        {
            "prompt_id": 7,
            "response_id": 0,
            "tokens": [5, 8, 9, 1],
            "token_texts": ["<5>", "<8>", "<9>", "<1>"],
            "token_logprobs": [None, -0.25, -0.25, -0.5],
            "rb_entropies": [None, 0.5, 0.75, 0.75],
            "attention_mask": [1, 1, 1, 1],
            "sampled_mask": [0, 1, 1, 1],
        },
    ]
    rows = log["token_data"]["U_batch"]
    assert [(row["response_id"], row["tokens"], row["token_logprobs"]) for row in rows] == [
        (0, [5, 6], [None, -1.0]),
        (0, [5, 6, 4, 8], [None, None, None, -2.0]),
        (1, [5, 9], [None, -0.5]),
    ]
    assert rows[1]["token_texts"] == ["<5>", "<6>", "<4>", "<8>"]
    raw = log["raw_tensors"]
    assert set(raw) == {"E_batch", "U_batch", "importance_sampling"}
    assert set(raw["U_batch"]) == {
        "tokens", "mask", "lengths", "episodes", "groups", "prompt_ids", "prompt_lengths", "generation_lengths",
        "logprobs", "entropies", "rewards", "advantages",
    }  # fmt: skip
    assert raw["U_batch"]["tokens"] == [[5, 6, 0, 0], [5, 6, 4, 8], [5, 9, 0, 0]]
    assert raw["importance_sampling"] == {
        "S_orig": S_ORIG,
        "S_upd": pytest.approx(S_UPD),
        "RB_orig": RB_ORIG,
        "RB_upd": RB_UPD,
        "logw": pytest.approx([0.0, math.log(3)]),
        "importance_weights": pytest.approx([1.0, 3.0]),
    }
    assert log["debug_info"] == {"omitted_tensors": {}}
    # the NaN that stands off the mask is nobody's log-prob, yet it is in the tensor
    assert log["run_metadata"]["non_finite"] == ["raw_tensors.E_batch.logprobs.0"]
    assert raw["E_batch"]["logprobs"][0] == [None, -1.0, -0.5, 0.0]


def test_switches_take_their_part_out_of_a_level(tmp_path):
    log = read(record(everything(tmp_path, log_sequences=False, log_tokens=False, log_raw_tensors=False)))
    assert (log["sequences"], log["token_data"], log["raw_tensors"]) == ({}, {}, {})
    assert "omitted_tensors" not in log["debug_info"]


def test_large_tensors_and_prompts_beyond_the_first_hundred_are_left_out(tmp_path):
    size, ones = 101, [[1] * 100] * 101
    each = list(range(size))
    drawn = sample(ones, ones, [100] * size, each, each, each, [0.0] * size, "r" * size)
    many = {"name": "U_batch", "sample": drawn, "tokenizer": Words()}
    with DetailedLogger(everything(tmp_path)) as logger:
        logger.log_run_start("c", CONFIG)
        logger.log_batch_data(LoggedBatch(**many))
        main = logger.finalize_log()
    log = read(main)
    assert [record["prompt_id"] for record in log["sequences"]["U_batch"]] == list(range(100))
    assert len(log["token_data"]["U_batch"]) == 100
    assert log["batch_statistics"]["U_batch"]["num_prompts"] == 101
    assert log["debug_info"]["omitted_tensors"] == {"U_batch.tokens": [101, 100], "U_batch.mask": [101, 100]}
    assert set(log["raw_tensors"]["U_batch"]) == {
        "lengths", "episodes", "groups", "prompt_ids", "prompt_lengths", "generation_lengths", "rewards",
    }  # fmt: skip


def test_what_was_not_computed_is_null(tmp_path):
    unknown = dict.fromkeys(("logprobs", "entropies", "importance_weights", "advantages"))
    with DetailedLogger(everything(tmp_path)) as logger:
        logger.log_run_start("c", CONFIG)
        logger.log_batch_data(e_batch(**unknown))
        logger.log_batch_data(u_batch(**unknown))
        log = read(logger.finalize_log({"deltaH1": 1.0}))
    (first, _), (prompt,) = log["sequences"]["E_batch"], log["sequences"]["U_batch"]
    assert (first["sequence_logprob"], first["rb_entropy"], first["importance_weight"]) == (None, None, None)
    assert first["advantage"] == 0.0
    assert prompt["responses"][1]["advantage"] is None
    assert log["batch_statistics"]["U_batch"]["avg_advantages"] is None
    assert log["token_data"]["U_batch"][0]["token_logprobs"] == [None, None]
    assert log["core_results"]["deltaH1"] == 1.0 and log["core_results"]["bars_dot"] is None
    assert log["run_metadata"]["non_finite"] == []


def test_unequal_groups_have_no_g_and_one_element_no_spread():
    two = sample(*U_ROWS, [0, 0, 1], [0, 1], [11, 12], [1.0, 0.0], "xy")
    assert detailed_log.log_batch.statistics(u_batch(sample=two))["G"] == 1
    three = sample(*U_ROWS, [0, 1, 2], [0, 0, 1], [11, 12], [1.0] * 3, "xyz")
    assert detailed_log.log_batch.statistics(u_batch(sample=three))["G"] is None
    assert detailed_log.log_batch.spread(torch.tensor([2])) == {"mean": 2.0, "std": None, "min": 2.0, "max": 2.0}


def test_a_later_log_of_a_batch_replaces_the_first(tmp_path):
    with DetailedLogger(settings(tmp_path, level="detailed")) as logger:
        logger.log_run_start("c", CONFIG)
        logger.log_batch_data(e_batch(logprobs=None))
        logger.log_batch_data(e_batch())
        log = read(logger.finalize_log())
    assert log["sequences"] == {"E_batch": E_SEQUENCES}


# --- files ---


def test_files_of_a_run(tmp_path):
    main = record(settings(tmp_path))
    log = read(main)
    metadata = log["run_metadata"]
    stamp = datetime.fromisoformat(metadata["timestamp"])
    base = f"entropy_probe_{stamp:%H-%M-%S}"
    assert main == tmp_path / f"{stamp:%Y-%m-%d}" / f"{base}_step_60.json.gz"
    names = {f"{base}_step_60{end}" for end in (".json.gz", "_summary.json", "_config.yaml")} | {f"{base}_console.log"}
    assert {path.name for path in main.parent.iterdir()} == names == set(metadata["files"].values())
    assert loads((main.parent / f"{base}_step_60_config.yaml").read_text()) == CONFIG
    assert summary_of(main) == {
        "run_metadata": metadata,
        "core_results": CORE,
        "timing": log["timing"],
        "ground_truth": {"H_orig": 2.5, "H_upd": 2.25, "deltaH_true": -0.25, "ESS": 1.9},
        "batch_statistics": log["batch_statistics"],
    }
    assert metadata["checkpoint_path"] == "runs/step_60/model"
    assert metadata["probe_version"] == version("uncollapse")
    assert metadata["config_hash"] == sha256(json.dumps(CONFIG, sort_keys=True).encode()).hexdigest()[:16]
    assert metadata["logging_level"] == "standard"
    assert (metadata["status"], metadata["error"], metadata["git_commit"]) == ("success", None, None)
    assert set(metadata["environment"]) == {
        "python_version", "torch_version", "cuda_available", "gpu_count", "gpu_name", "gpu_memory_gb",
    }  # fmt: skip
    assert metadata["environment"]["torch_version"] == torch.__version__


def test_plain_and_compressed_hold_the_same(tmp_path):
    plain, packed = (record(everything(tmp_path / str(pack), compress=pack)) for pack in (False, True))
    assert (plain.suffix, packed.suffix) == (".json", ".gz")
    assert packed.stat().st_size < plain.stat().st_size
    assert contents(read(plain)) == contents(read(packed))


def test_summary_has_no_ground_truth_where_none_was_logged(tmp_path):
    assert summary_of(record(settings(tmp_path, level="minimal")))["ground_truth"] == {}


@pytest.mark.parametrize(
    ("checkpoint", "expected"),
    [
        ("/runs/step_60/model", "step_60"),
        ("/runs/step_60/model/", "step_60"),
        ("/runs/step_60", "step_60"),
        ("Qwen/Qwen2.5-1.5B", "Qwen2.5-1.5B"),
        ("/", "checkpoint"),
        ("/a/" + "é" * 80, "é" * 50),
    ],
)
def test_label_of_a_checkpoint(checkpoint, expected):
    assert label(checkpoint) == expected


def test_label_of_a_relative_path(tmp_path, monkeypatch):
    (tmp_path / "step_3").mkdir()
    monkeypatch.chdir(tmp_path / "step_3")
    assert label("model") == "step_3" == label(".")


def test_template(tmp_path):
    main = record(settings(tmp_path, filename_template="{checkpoint} on {date}", compress=False))
    assert main.name == f"step_60 on {main.parent.name}.json"


@pytest.mark.parametrize("template", ["{model}", "{time:>9}", "{0}", "{}", "{time", "a/{time}", "", "{time!r}"])
def test_template_that_is_refused(template):
    with pytest.raises(ValueError, match=r"placeholder|template|name of a file"):
        DetailedLogging(filename_template=template)


@pytest.mark.parametrize("wrong", [{"level": "verbose"}, {"max_files": -1}])
def test_settings_that_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DetailedLogging(**wrong)


def test_runs_of_one_second_do_not_clash(tmp_path):
    now = datetime(2025, 1, 15, 14, 30, 25)
    chosen = settings(tmp_path)
    claimed = [LogFiles.claim(chosen, checkpoint, now) for checkpoint in ("a/step_60/model", "b/step_60", "b/step_61")]
    claimed.append(LogFiles.claim(attrs.evolve(chosen, compress=False), "step_60", now))
    folder = tmp_path / "2025-01-15"
    assert [files.log for files in claimed] == [
        folder / "entropy_probe_14-30-25_step_60.json.gz",
        folder / "entropy_probe_14-30-25_step_60_2.json.gz",
        folder / "entropy_probe_14-30-25_step_61_3.json.gz",
        folder / "entropy_probe_14-30-25_step_60_4.json",
    ]
    assert claimed[1].console == folder / "entropy_probe_14-30-25_console_2.log"
    assert len({path for files in claimed for path in attrs.astuple(files)}) == 16


def test_a_name_of_somebody_else_is_not_overwritten(tmp_path):
    now = datetime(2025, 1, 15, 14, 30, 25)
    (tmp_path / "2025-01-15").mkdir()
    other = tmp_path / "2025-01-15" / "entropy_probe_14-30-25_c_summary.json"
    other.write_text("mine")
    assert LogFiles.claim(settings(tmp_path), "c", now).summary.name == "entropy_probe_14-30-25_c_2_summary.json"
    assert other.read_text() == "mine"


def test_only_the_newest_runs_are_kept_and_nothing_of_others_goes(tmp_path):
    chosen = settings(tmp_path, max_files=2)
    first = record(chosen)
    folder = first.parent
    kept = [folder / "notes.txt", folder / "other_summary.json", folder / "renamed_summary.json", tmp_path / "x.json"]
    for path in kept:
        path.write_text("{}")
    shutil.copy(folder / read(first)["run_metadata"]["files"]["summary"], kept[2])
    runs = [record(chosen) for _ in range(3)]
    logs = {path for main in runs[-2:] for path in _files(main)}
    assert set(folder.iterdir()) == logs | set(kept[:3])
    assert kept[3].exists()
    record(attrs.evolve(chosen, max_files=0))
    assert len(set(folder.iterdir())) == 3 + 3 * 4


def test_a_run_of_another_day_is_the_oldest_and_takes_its_folder_along(tmp_path):
    old = record(settings(tmp_path))
    old.parent.rename(tmp_path / "2025-01-15")
    record(settings(tmp_path, max_files=1))
    assert not (tmp_path / "2025-01-15").exists()


def test_clean_up_never_leaves_the_folder_of_a_run(tmp_path):
    (tmp_path / "2025-01-15").mkdir()
    (tmp_path / "outside").write_text("mine")
    main = record(settings(tmp_path))
    summary = main.parent / read(main)["run_metadata"]["files"]["summary"]
    forged = strict(summary.read_text())
    forged["run_metadata"]["files"]["log"] = "../outside"
    summary.write_text(json.dumps(forged))
    record(settings(tmp_path, max_files=1))
    assert (tmp_path / "outside").exists() and summary.exists()
    prune(tmp_path / "absent", 1)


def _files(main):
    return [main.parent / name for name in read(main)["run_metadata"]["files"].values()]


# --- numbers that are none, and runs that fail ---


def test_what_is_not_finite_is_null_and_said_where(tmp_path):
    with DetailedLogger(everything(tmp_path, compress=False)) as logger:
        logger.log_run_start("c", CONFIG)
        logger.log_importance_sampling_details([0.0], [1000.0], [1.0], [1.0])
        rows = {"w": torch.tensor([1.0, math.nan]), "rows": [{"a": math.inf}, {"a": 1.0}], "kind": Path("p")}
        log = read(logger.finalize_log({"deltaH1": math.nan, "H_orig": -math.inf, "diagnostics": rows}))
    assert log["core_results"]["deltaH1"] is None
    found = {"w": [1.0, None], "rows": [{"a": None}, {"a": 1.0}], "kind": "p"}
    assert log["ground_truth"]["diagnostics"] == found
    assert log["ground_truth"]["importance_sampling_details"]["logw_stats"] == {
        "mean": 1000.0, "std": None, "min": 1000.0, "max": 1000.0,
    }  # fmt: skip
    assert log["run_metadata"]["non_finite"] == [
        "core_results.deltaH1",
        *(f"ground_truth.importance_sampling_details.weight_stats.{key}" for key in ("mean", "min", "max")),
        "ground_truth.H_orig",
        "ground_truth.diagnostics.w",
        "ground_truth.diagnostics.rows.0.a",
        "raw_tensors.importance_sampling.importance_weights",
    ]


def broken(chosen, error, *steps):
    """A run that does the steps, and then raises."""
    with DetailedLogger(chosen) as logger:
        logger.log_run_start("c", CONFIG)
        for name, *arguments in steps:
            getattr(logger, name)(*arguments)
        raise error


def only_log(directory):
    (main,) = directory.glob("*/*.json.gz")
    return read(main)


@pytest.mark.parametrize("level", ["minimal", "detailed"])
def test_a_run_that_raises_still_writes_its_log(tmp_path, level):
    sampling = [("log_batch_data", u_batch()), ("log_phase_start", "sampling"), ("log_phase_end", "sampling")]
    with pytest.raises(RunError, match="out of memory"):
        broken(settings(tmp_path, level=level), RunError("out of memory"), *sampling, ("log_phase_start", "truth"))
    log = only_log(tmp_path)
    metadata = log["run_metadata"]
    assert (metadata["status"], metadata["failed_phase"]) == ("failed", "truth")
    assert metadata["error"] == "RunError: out of memory"
    assert set(log["timing"]) == {"sampling_time", "truth_time", "total_time"}
    assert set(log) == NINE and log["core_results"] == {}
    assert set(log["batch_statistics"]) == (set() if level == "minimal" else {"U_batch"})
    assert ("traceback" in log["debug_info"]) == (level == "detailed")
    (summary,) = tmp_path.glob("*/*_summary.json")
    assert strict(summary.read_text())["run_metadata"]["status"] == "failed"
    (console,) = tmp_path.glob("*/*_console.log")
    assert "out of memory" in console.read_text()


def test_an_interrupted_run_and_one_that_was_left(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        broken(settings(tmp_path / "a"), KeyboardInterrupt())
    assert only_log(tmp_path / "a")["run_metadata"]["status"] == "interrupted"
    with DetailedLogger(settings(tmp_path / "b")) as logger:
        logger.log_run_start("c", CONFIG)
    assert only_log(tmp_path / "b")["run_metadata"]["status"] == "unfinished"


def test_an_error_after_the_log_was_written_leaves_it(tmp_path):
    with pytest.raises(ValueError, match="later"):
        broken(settings(tmp_path), ValueError("later"), ("finalize_log", RESULTS))
    assert only_log(tmp_path)["run_metadata"]["status"] == "success"


def test_a_log_that_cannot_be_written_hides_no_error(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log_files.Path, "write_bytes", full)
    with pytest.raises(ValueError, match="the cause") as caught:
        broken(settings(tmp_path), ValueError("the cause"))
    assert "No space left" in caught.value.__notes__[0]
    with pytest.raises(RunError, match="No space left"):
        record(settings(tmp_path))
    assert not list(tmp_path.glob("*/*.tmp"))


def test_an_output_directory_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="cannot be written"):
        DetailedLogger(settings(tmp_path / "file")).log_run_start("c", CONFIG)


def test_a_logger_that_is_not_enabled_writes_nothing(tmp_path):
    assert record(settings(tmp_path, enabled=False)) is None
    with pytest.raises(ValueError, match="the cause"):
        broken(settings(tmp_path, enabled=False), ValueError("the cause"))
    assert list(tmp_path.iterdir()) == []


# --- the rest ---


def test_times_of_a_phase_add_up(tmp_path, monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 10.0, 14.0, 20.0])
    monkeypatch.setattr(detailed_log.time, "perf_counter", lambda: next(clock))
    with DetailedLogger(settings(tmp_path)) as logger:
        logger.log_run_start("c", CONFIG)
        for _ in range(2):
            logger.log_phase_start("truth")
            logger.log_phase_end("truth")
        log = read(logger.finalize_log())
    assert log["timing"] == {"truth_time": 6.0, "total_time": 20.0}


def test_console_log_has_messages_of_the_probe_and_lets_go_of_its_logger(tmp_path):
    package = logging.getLogger("uncollapse.plugins.probe")
    before = (package.level, list(package.handlers))
    with DetailedLogger(settings(tmp_path)) as logger:
        logger.log_run_start("c", CONFIG)
        logging.getLogger("uncollapse.plugins.probe.estimation.measured_change").warning("low ESS")
        logger.log_phase_start("truth")
        main = logger.finalize_log()
    logging.getLogger("uncollapse.plugins.probe").warning("too late")
    text = (main.parent / read(main)["run_metadata"]["files"]["console"]).read_text()
    assert "WARNING low ESS\n" in text and "truth: started" in text and "success after" in text
    assert "too late" not in text
    assert (package.level, package.handlers) == before


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_commit_of_the_repository_that_the_configuration_is_in(tmp_path):
    repository = tmp_path / "repository"
    (repository / "configs").mkdir(parents=True)
    who = ["-c", "user.name=n", "-c", "user.email=e"]
    for command in (["init", "-q"], [*who, "commit", "-q", "--allow-empty", "-m", "m"]):
        subprocess.run(["git", "-C", str(repository), *command], check=True)
    head = subprocess.run(
        ["git", "-C", str(repository), "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    found = {}
    for place in (repository / "configs", tmp_path / "absent"):
        with DetailedLogger(settings(tmp_path / "logs"), config_directory=place) as logger:
            logger.log_run_start("c", CONFIG)
            found[place.name] = read(logger.finalize_log())["run_metadata"]["git_commit"]
    assert found == {"configs": head, "absent": None}
    assert len(head) == 40
