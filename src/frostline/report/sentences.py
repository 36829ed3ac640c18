"""What each part of a page shows, in one sentence."""

SENTENCES = {
    "training": (
        "What the task is judged by, and the loss, after every epoch; a dashed line is where a later phase begins, and "
        "its frostline stands above. A ring is the epoch that was kept. What is pale, on grey and marked ✗, was undone."
    ),
    "plan": (
        "What the task is judged by, and the log-loss, of the network as it stands after each phase, on validation "
        "images and before calibration; what did not pay was undone (grey), and the network is what it was before."
    ),
    "confusion": (
        "Rows are what images show, columns what they were taken for; classes that are confused stand together."
    ),
    "classes": (
        "Recall is the share of a class that is found, precision the share of a label that is right; the thin line "
        "is the 95 % interval. Click a heading to sort."
    ),
    "mistakes": (
        "The images whose true label is the least probable to the network; true label → predicted label, and the "
        "probability of the latter. The second picture is coloured where the network found what it predicts, yellow "
        "where it found most of it (Grad-CAM)."
    ),
    "masks": (
        "The images of the lowest mean IoU: the picture, what is true, what is predicted. White edges are those of the "
        "true regions, also over what is predicted: colour outside them is too much, none inside is too little. The "
        "first class is left bare."
    ),
    "unsure": "The images that are right with the lowest probability: some like them will be wrong.",
    "calibration": (
        "Of the predictions with about some probability, how many are right: on the dashed line probabilities can be "
        "believed. The lines are 95 % intervals."
    ),
    "learning": (
        "How often a head that is solved for this alone is right when it learns from part of the training images (95 % "
        "intervals), and "
        "what twice as many would give: four times out of five the value lies within the line. The classes that gain "
        "most come first."
    ),
    "harmful": (
        "Without any one of them the solved head would do a little better on the validation images. That is no reason "
        "to delete one; what the other images say stands behind an arrow where it is not the label. worth.csv has all."
    ),
    "map": (
        "Images that look alike to the frozen network lie together (t-SNE); colour is the true class, a ring a "
        "mistake. Distances between far groups mean nothing."
    ),
    "data": "What frostline check finds in all splits: copies, leaks, likely wrong labels, outliers, lacking classes.",
    "views": "The variants that training saw; the first column is the plain image, as in evaluation.",
    "run": "The configuration has every option and the seed; another machine gives the same figures but for rounding.",
    "runs": (
        "To the best are points of accuracy with their 95 % interval, and p, counted image by image and corrected for "
        "nothing. Seconds leave out what was stored before. Click a heading to sort, a run to see its report."
    ),
    "time": "Further up is more accurate, further left is sooner done; the lines are 95 % intervals.",
    "recalls": "The share of each class that a run finds; the classes in which the runs differ most come first.",
    "images": (
        "What the most accurate run and the runner-up say where just one of them is right (the other is red); first "
        "those of which the wrong one is surest."
    ),
    "failed": "These could not be fitted; the others were compared all the same.",
    "repeat": (
        "The comparison leaves the test images closed; a line with --config, typed in this folder, makes one run "
        "alone, which opens them."
    ),
}
