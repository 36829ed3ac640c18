"""Checks of a data set before its figures are trusted: copies, leaks, wrong labels, outliers, classes."""
