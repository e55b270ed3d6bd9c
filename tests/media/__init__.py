"""Hostile and broken recordings, made on the spot: recipes with ffmpeg, surgery on bytes, and the table of both."""
