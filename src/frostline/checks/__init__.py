"""What is wrong with a data set, before a number is believed: copies, leaks, wrong labels, outliers, classes."""
