"""The MinAtar games (Young and Tian 2019): Atari on a 10 x 10 board, rules as published."""
