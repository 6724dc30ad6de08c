"""One trainer for every objective and task."""
