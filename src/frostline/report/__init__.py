"""The pictures of a run: curves, confusion, sheets of images, comparisons. Nothing else imports matplotlib."""
