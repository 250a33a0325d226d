// Sends the chosen video and the inputs to the server. Returns the HTML of the result.
async function classifyVideo(maxBytes, labels, mode, window_, overlap) {
  const file = document.querySelector("#video-input")?.files[0];
  if (!file) return notice("Choose a video first.");
  if (file.size > maxBytes) return notice(`The video has ${megabytes(file.size)}; at most ${megabytes(maxBytes)} are allowed.`);
  const form = new FormData();
  form.append("labels", labels ?? "");
  if (mode === "timeline") {
    form.append("window", String(window_ ?? ""));
    form.append("overlap", String(overlap));
  }
  form.append("pictures", "true");
  form.append("video", file, file.name);
  const button = document.querySelector("#classify");
  const caption = button.textContent;
  button.disabled = true;
  try {
    const {status, text} = await post(`page/${mode}`, form, (share) => {
      button.textContent = share < 1 ? `Sending ${Math.round(100 * share)} %` : "Classifying ...";
    });
    return status === 200 ? text : notice(errorOf(text, status));
  } catch (error) {
    return notice("The connection to the server is lost. Is it still running?");
  } finally {
    button.textContent = caption;
    button.disabled = false;
  }
}

// XMLHttpRequest, because fetch does not report the progress of an upload.
function post(url, form, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.upload.onprogress = (event) => onProgress(event.loaded / event.total);
    request.onload = () => resolve({status: request.status, text: request.responseText});
    request.onerror = request.onabort = reject;
    request.open("POST", url);
    request.send(form);
  });
}

function errorOf(text, status) {
  try {
    return JSON.parse(text).error;
  } catch {
    return `The server answers with status ${status}.`;
  }
}

function notice(text) {
  const paragraph = document.createElement("p");
  paragraph.className = "error";
  paragraph.setAttribute("role", "alert");
  paragraph.textContent = text;
  return paragraph.outerHTML;
}

function megabytes(bytes) {
  return `${(bytes / 1e6).toFixed(bytes < 1e6 ? 3 : 1)} MB`;
}

// The preview plays the local file: nothing is sent before the button is pressed.
document.addEventListener("change", (event) => {
  if (event.target.id !== "video-input") return;
  const [file] = event.target.files;
  const preview = document.querySelector("#preview");
  URL.revokeObjectURL(preview.src);
  preview.hidden = !file;
  preview.src = file ? URL.createObjectURL(file) : "";
  preview.onerror = () => { preview.hidden = true; };  // the browser cannot play every format that the server reads
  document.querySelector("#file-facts").textContent = file ? `${file.name}, ${megabytes(file.size)}` : "";
});
