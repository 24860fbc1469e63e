"""Tests that talk to a Hub over HTTP are not collected here: `test_over_http.py` runs them in processes of their own."""

collect_ignore = ["over_http"]
