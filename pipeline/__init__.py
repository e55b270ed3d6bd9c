"""What a person runs: settings, one video, prediction, timeline, command line."""
