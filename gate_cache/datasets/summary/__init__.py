"""What a data set holds, counted and checked before anything is paid."""
