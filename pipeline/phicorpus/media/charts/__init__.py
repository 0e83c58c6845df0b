"""Charts of decks: the numbers behind them, as the deck shows them."""
