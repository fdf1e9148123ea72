"""The benchmark: suites of subjects and edits, arms that draw them, a runner and its report."""
