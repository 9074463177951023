"""Measurements, each a script that writes a table, a picture and a JSON file with a stamp."""
