"""`sonodistill bench finetune`: what it prints, not how fast it is."""

import json

from typer.testing import CliRunner

from sonodistill_training.bench.commands import app


def test_the_last_line_is_json_with_the_keys_and_what_was_measured():
    words = "finetune --frames 14 --parts 1 --input-size 64 --batch-size 4 --encoder resnet10t --workers 0 --json"
    result = CliRunner().invoke(app, words.split())
    assert result.exit_code == 0, result.output
    found = json.loads(result.output.splitlines()[-1])
    assert found["ratio_vs_monai_pipeline"] == found["monai_epoch_seconds"] / found["epoch_seconds"]
    assert 0 < found["data_wait_fraction"] < 1
    assert found["frames"] == 14
    assert (found["data"], found["encoder"]) == ("simulated", "resnet10t")
