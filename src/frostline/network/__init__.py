"""Networks, their graphs, stages and cuts."""
