"""Checks of a data set, on which its figures depend: copies, leaks, wrong labels, outliers, classes."""
