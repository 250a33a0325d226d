"""The web server: a page and a JSON API that classify uploaded videos. The command is `python -m dist_jax.serve`.

    request -> api -> uploads (form, video file) -> jobs (threads, limited number)
            -> answers -> video_check -> classifier -> batcher (clips of all requests -> device)
            -> api: JSON, or HTML of `fragments` for `page`

Only `api`, `uploads`, `page` and `server` need the packages of `pip install "dist_jax[serve]"`.
"""
