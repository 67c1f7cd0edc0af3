"""`python -m geoelle`."""

from geoelle.cli import main

if __name__ == "__main__":
    main()
