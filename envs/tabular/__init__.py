"""Small tasks of the textbooks that are no grids: cards, chains, gambling, car rental."""
