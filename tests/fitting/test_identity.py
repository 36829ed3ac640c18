from __future__ import annotations

from dataclasses import replace

import numpy as np
import yaml

from frostline.data.images import ImageSet
from frostline.fitting.identity import config_digest, images_digest
from trainings import masked


def test_the_digest_of_images_covers_names_labels_order_splits_and_groups(stripes):
    train, valid = stripes.train, stripes.valid
    others = [
        replace(stripes, train=train.take(np.arange(len(train))[::-1])),
        replace(stripes, train=valid, valid=train),
        replace(stripes, classes=("flat", "tall", "wide")),
        replace(stripes, groups={train.names[0]: "a"}),
        replace(stripes, test=None),
    ]
    assert len({images_digest(images) for images in [stripes, *others]}) == 6
    assert images_digest(stripes) == images_digest(replace(stripes, name="other", origin="elsewhere"))


def test_it_covers_the_masks():
    images = ImageSet("squares", ("none", "green", "blue"), masked(3), masked(2, 1))
    before = images_digest(images)
    images.train.targets.pictures[1][:4] = 2
    assert images_digest(images) != before


def test_the_digest_of_a_configuration_covers_what_decides_the_result(job_of):
    job = job_of()
    before, config = config_digest(job.run), job.run.config
    for change, same in (
        ({"workers": 7}, True),
        ({"data": "moved/"}, True),
        ({"lr": 0.5}, False),
        ({"seed": 3}, False),
    ):
        (job.run.path / "config.yaml").write_text(yaml.safe_dump({**config, **change}))
        assert (config_digest(job.run) == before) is same, change
