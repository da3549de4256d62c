"""The Unix part; knows nothing of jobs."""
