"""The classic control tasks, step for step those of Gymnasium."""
