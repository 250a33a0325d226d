"""The web server: a page and a JSON API that classify uploaded videos. The command is `python -m dist_jax.serve`.

    request -> uploads.py (form, video file) -> jobs.py (threads, limited number) -> video_check.py
            -> classifier.py -> batcher.py (clips of all requests -> device) -> api.py (JSON) or fragments.py (HTML)

Only `uploads`, `api`, `page` and `server` need the extra packages of `pip install "dist_jax[serve]"`.
"""
