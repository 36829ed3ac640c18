"""fastai: a Learner, frozen below what trains, and fit.

`vision_learner` would put a head of two layers on top; a Learner takes the network as it is, so that all train the
same.
"""

from task import (
    LEARNING_RATE,
    MEAN,
    STD,
    WORKERS,
    Clock,
    answer,
    count_trained,
    geometry,
    load_network,
    read_arguments,
    trained_modules,
)

# isort: split
from fastai.vision.all import (
    Callback,
    CrossEntropyLossFlat,
    ImageDataLoaders,
    Learner,
    Normalize,
    PILImage,
    accuracy,
    params,
)
from torchvision import transforms

args = read_arguments()
clock = Clock()


class Timer(Callback):
    def before_fit(self):
        clock.begin()

    def after_epoch(self):
        clock.epoch()


def resize_and_crop(image: PILImage):  # the annotation tells fastai to leave labels alone
    return PILImage(transforms.Compose(geometry(args.arch))(image))


dls = ImageDataLoaders.from_folder(
    args.data,
    train="train",
    valid="val",
    item_tfms=resize_and_crop,
    batch_tfms=Normalize.from_stats(MEAN[args.arch], STD[args.arch]),
    bs=args.batch_size,
    num_workers=WORKERS,
)
model = load_network(args.arch, args.weights, dls.c)


def splitter(model):
    """Two groups of parameters: what `freeze` freezes, and what trains."""
    trained = [p for module in trained_modules(model, args.arch, args.train) for p in params(module)]
    ours = {id(p) for p in trained}
    return [[p for p in params(model) if id(p) not in ours], trained]


learn = Learner(dls, model, loss_func=CrossEntropyLossFlat(), metrics=accuracy, splitter=splitter, cbs=Timer())
learn.freeze()
with learn.no_bar():
    learn.fit(args.epochs, LEARNING_RATE)
answer(float(learn.recorder.values[-1][-1]), clock, count_trained(model))
