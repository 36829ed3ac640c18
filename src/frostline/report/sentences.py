"""The text below each part of a page."""

SENTENCES = {
    "training": (
        "The metric and the loss after every epoch. A dashed line marks the start of a later phase, with its frostline "
        "above. A ring marks the epoch that was kept. Pale lines on grey, marked ✗, were undone."
    ),
    "plan": (
        "The metric and the log-loss of the network after each phase, on validation images and before calibration. A "
        "phase that did not pay was undone (grey): the network went back to its state before that phase."
    ),
    "confusion": ("Rows are true classes, columns are predicted classes. Confused classes are next to each other."),
    "classes": (
        "Recall is the share of a class that is found; precision is the share of its predictions that are right. The "
        "thin line is the 95 % interval. Click a heading to sort."
    ),
    "mistakes": (
        "The images whose true label has the lowest probability: true label → predicted label, and the probability of "
        "the prediction. The second picture is coloured where the network found evidence for its prediction, yellow "
        "where it found most (Grad-CAM)."
    ),
    "masks": (
        "The images of the lowest mean IoU: the picture, the ground truth, the prediction. White edges outline the "
        "true regions, also over the prediction: colour outside them is too much, no colour inside is too little. The "
        "first class has no colour."
    ),
    "unsure": "The correct predictions with the lowest probability: similar images may be wrong.",
    "calibration": (
        "The share of correct predictions, by their probability. On the dashed line the probabilities are right. The "
        "lines are 95 % intervals."
    ),
    "learning": (
        "The accuracy of a solved head on parts of the training images (95 % intervals), and the forecast for twice as "
        "many images: the value lies within the line four times out of five. The classes that gain most come first."
    ),
    "harmful": (
        "Without any one of these images the solved head would do a little better on the validation images. That is no "
        "reason to delete one. If the other images suggest another label, it follows an arrow. worth.csv has all."
    ),
    "map": (
        "Images that are similar to the frozen network are close together (t-SNE). The colour is the true class, a "
        "ring marks a mistake. Distances between far groups mean nothing."
    ),
    "data": "What frostline check finds in all splits: copies, leaks, wrong labels, outliers, missing classes.",
    "views": "The augmented views that training saw; the first column is the plain image, as in evaluation.",
    "run": "The configuration has every option and the seed; another machine gives the same figures up to rounding.",
    "runs": (
        "“To the best” is the difference in points of accuracy, with its 95 % interval and p value, paired by image "
        "and without any correction. Seconds exclude cached work. Click a heading to sort, or a run for its report."
    ),
    "time": "Higher is more accurate, further left is faster; the lines are 95 % intervals.",
    "recalls": "The recall of each class in each run; the classes with the largest differences come first.",
    "images": (
        "The predictions of the most accurate run and the runner-up where only one is right (the other is red). The "
        "most confident mistakes come first."
    ),
    "failed": "These could not be fitted; the comparison has all others.",
    "repeat": (
        "The comparison does not use the test images. A line with --config, typed in this folder, repeats one run, "
        "which is then measured on them."
    ),
}
