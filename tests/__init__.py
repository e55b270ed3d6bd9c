"""Tests, by room: test_<what>.py; shared fixtures in conftest.py."""
