"""`python -m pymetaner`: the command line."""

from pymetaner.cli import main

if __name__ == "__main__":
    main()
