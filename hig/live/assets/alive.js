// Tells the user when the server is gone, and loads the page again when it is back.
setInterval(async () => {
    const answer = await fetch("assets/page.css", {cache: "no-store"}).catch(() => ({ok: false}));
    if (answer.ok && document.body.classList.contains("gone"))
        location.reload();
    document.body.classList.toggle("gone", !answer.ok);
}, 1000);
