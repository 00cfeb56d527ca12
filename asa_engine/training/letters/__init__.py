"""The pronouncing dictionary and the letter-to-sound model that asa_engine.text carries."""
