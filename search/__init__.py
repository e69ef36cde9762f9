"""Ray Tune and Optuna: launching searches, ranking, confirming, exporting; the command line."""
