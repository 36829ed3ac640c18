"""One file a layout of labelled images."""
