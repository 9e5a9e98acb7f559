// The strip above Notebook and Lab, and what happens to an open file that changed on the server. Written by hand in the
// form that webpack gives a prebuilt extension (https://jupyterlab.readthedocs.io/en/stable/extension/extension_dev.html).
(() => {
  const EVENT = 'urn:nblauncher:notices:1';
  const POLL = 120000; // in case an event was missed; an open tab asks Jupyter for its kernels every ten seconds
  const MINUTES = [30, 10, 2]; // before a deadline: from each on it is shown, also if the last one was dismissed
  const HEIGHT = 'nblauncher-notices-height';
  let shared;

  const load = async name => {
    const versions = shared[name];
    const factory = await Object.values(versions)[0].get();
    return factory();
  };

  // Texts in the class's language, from the page's config (nblauncher.server.app). Filled in once: nothing in a value is
  // a placeholder.
  const reader = option => {
    const given = JSON.parse(option('nblauncherTexts') || '{}');
    return (key, values = {}) =>
      (given[key] || '').replace(/\{([a-z]+)\}/g, (all, name) => (name in values ? String(values[name]) : all));
  };

  // The notices that are shown at this moment. `clock` is the server's time in seconds.
  const current = (notices, clock, words) => {
    const shown = [];
    for (const one of notices) {
      if (one.until !== null && one.until <= clock) {
        continue;
      }
      if (one.kind !== 'deadline') {
        shown.push(one);
        continue;
      }
      const minutes = (one.until - clock) / 60;
      const stage = MINUTES.filter(start => minutes <= start).pop();
      if (stage !== undefined) {
        const about = { folder: one.folder, when: one.clock, minutes: Math.ceil(minutes) };
        const what = one.folder ? words('notice_deadline_of', about) : words('notice_deadline', about);
        const text = `${what} ${words('notice_deadline_save')}`;
        shown.push({ ...one, id: `${one.id} ${stage}`, text });
      }
    }
    return shown;
  };

  // What this browser does not show any more: one list for all tabs of the student.
  const dismissals = base => {
    const key = `nblauncher-dismissed ${base}`;
    const read = () => {
      try {
        return JSON.parse(localStorage.getItem(key)) || [];
      } catch {
        return [];
      }
    };
    return {
      has: id => read().includes(id),
      add: id => localStorage.setItem(key, JSON.stringify([...read(), id].slice(-100)))
    };
  };

  // A row above the page: a colour that is dark on light in every theme, and text that is never parsed as markup.
  const COLOURS = {
    message: ['#fff3cd', '#332701', '#d6b656'],
    deadline: ['#fff3cd', '#332701', '#d6b656'],
    visit: ['#e1edf7', '#0b2a45', '#8db3d4'],
    disk: ['#fbe3e0', '#5c1410', '#dd9a93'],
    idle: ['#e1edf7', '#0b2a45', '#8db3d4']
  };

  const row = (one, words, dismiss) => {
    const [ground, ink, line] = COLOURS[one.kind] || COLOURS.message;
    const node = document.createElement('div');
    node.className = 'nblauncher-notice';
    node.dataset.kind = one.kind;
    node.style.cssText =
      `display: flex; align-items: center; gap: 12px; padding: 6px 12px; background: ${ground}; color: ${ink};` +
      `border-bottom: 1px solid ${line}; font: 600 14px/1.4 system-ui, sans-serif`;
    const text = document.createElement('span');
    text.dir = 'auto';
    text.style.cssText = 'flex: 1; overflow-wrap: anywhere';
    text.textContent = one.text;
    const button = document.createElement('button');
    button.textContent = '\u00d7';
    button.title = words('notice_hide');
    button.setAttribute('aria-label', words('notice_hide'));
    button.style.cssText =
      `border: 1px solid ${line}; border-radius: 3px; background: transparent; color: inherit; cursor: pointer;` +
      'font: inherit; min-width: 28px; min-height: 24px';
    button.addEventListener('click', dismiss);
    node.append(text, button);
    return node;
  };

  const strip = (words, language) => {
    const node = document.createElement('div');
    node.id = 'nblauncher-notices';
    node.setAttribute('role', 'status');
    node.lang = language;
    node.style.cssText = 'position: fixed; top: 0; left: 0; right: 0; z-index: 9000; max-height: 40vh; overflow: auto';
    document.body.append(node);
    // The application fills the window below it, and lays itself out again when the window seems to have changed.
    const style = document.createElement('style');
    style.textContent = `#main { top: var(--${HEIGHT}, 0px) !important; }`;
    document.head.append(style);
    let shown = '';
    return (notices, dismiss) => {
      const now = JSON.stringify(notices);
      if (now === shown) {
        return;
      }
      shown = now;
      node.replaceChildren(...notices.map(one => row(one, words, () => dismiss(one))));
      document.body.style.setProperty(`--${HEIGHT}`, `${node.offsetHeight}px`);
      window.dispatchEvent(new Event('resize'));
    };
  };

  // Documents that are open in this page, by their path below the student's home.
  const openContexts = app => {
    const found = new Map();
    for (const widget of app.shell.widgets('main')) {
      if (widget.context && widget.context.path) {
        found.set(widget.context.path, widget.context);
      }
    }
    return found;
  };

  // `send` changed these files. A page without unsaved edits loads the new version; with some, it saves, and is asked.
  const showChanged = async (app, paths, words, { Notification }) => {
    const contexts = openContexts(app);
    for (const path of paths) {
      const context = contexts.get(path);
      if (!context || context.isDisposed || !context.contentsModel || context.model.collaborative) {
        continue;
      }
      const onDisk = await app.serviceManager.contents.get(path, { content: false, hash: true }).catch(() => null);
      if (!onDisk || !onDisk.hash || onDisk.hash === context.contentsModel.hash) {
        continue; // the new version was put beside it, or this page shows it already
      }
      if (context.model.dirty) {
        await context.save().catch(error => console.warn(error));
      } else {
        await context.revert();
        Notification.info(words('changed_shown', { file: path.split('/').pop() }), { autoClose: false });
      }
    }
  };

  // "notes (mine 10.42).ipynb" beside the file, or with a number when that is taken.
  const freeName = async (contents, path) => {
    const slash = path.lastIndexOf('/') + 1;
    const dot = path.lastIndexOf('.');
    const [stem, end] = dot > slash ? [path.slice(0, dot), path.slice(dot)] : [path, ''];
    const time = new Date().toTimeString().slice(0, 5).replace(':', '.');
    for (let number = 1; number < 100; number += 1) {
      const name = `${stem} (mine ${time}${number > 1 ? ` ${number}` : ''})${end}`;
      const isTaken = await contents.get(name, { content: false }).then(
        () => true,
        error => {
          if (error.response && error.response.status === 404) {
            return false;
          }
          throw error;
        }
      );
      if (!isTaken) {
        return name;
      }
    }
    throw new Error('there are too many copies of this file');
  };

  const named = (name, text) => Object.assign(new Error(text), { name });

  // In place of Jupyter's question, whose default button overwrites what came from the teacher: `_raiseConflict` of
  // @jupyterlab/docregistry's Context, a private method. It answers with the file as it is on the server afterwards.
  const askSafely = (app, changedPaths, words, { Dialog, Notification, showDialog }) =>
    async function (onDisk, mine) {
      if (this._conflictModalIsOpen) {
        throw named('ModalDuplicateError', 'Modal is already displayed');
      }
      this._conflictModalIsOpen = true;
      const file = this.path.split('/').pop();
      const byTeacher = changedPaths().includes(this.path);
      const cancel = Dialog.cancelButton({ label: words('changed_cancel') });
      const keep = Dialog.okButton({ label: words('changed_keep'), actions: ['keep'] });
      const overwrite = Dialog.warnButton({ label: words('changed_overwrite'), actions: ['overwrite'] });
      let result;
      try {
        result = await showDialog({
          title: byTeacher ? words('changed_by_teacher') : words('changed_on_server'),
          body: byTeacher
            ? words('changed_by_teacher_question', { file })
            : words('changed_on_server_question', { file }),
          buttons: [cancel, overwrite, keep],
          defaultButton: 2
        });
      } finally {
        this._conflictModalIsOpen = false;
      }
      if (this.isDisposed) {
        throw new Error('Disposed');
      }
      const contents = app.serviceManager.contents;
      // Outputs may have come in while the question was open.
      const latest = typeof this._createSaveOptions === 'function' ? this._createSaveOptions() : mine;
      if (result.button.actions.includes('overwrite')) {
        return contents.save(this.path, latest);
      }
      if (result.button.actions.includes('keep')) {
        const name = await freeName(contents, this.path);
        await contents.save(name, latest);
        await this.revert();
        Notification.success(words('changed_kept', { file: name.split('/').pop() }), { autoClose: false });
        return this.contentsModel || onDisk;
      }
      throw named('ModalCancelError', 'Cancel');
    };

  const plugin = {
    id: 'nblauncher-notices:strip',
    description: 'Messages of the teacher, deadlines and warnings above the page; a safe choice when a file changed.',
    autoStart: true,
    activate: async app => {
      const apputils = await load('@jupyterlab/apputils');
      const settings = app.serviceManager.serverSettings;
      const { ServerConnection } = await load('@jupyterlab/services');
      const dismissed = dismissals(settings.baseUrl);
      const { PageConfig } = await load('@jupyterlab/coreutils');
      const words = reader(name => PageConfig.getOption(name));
      const show = strip(words, PageConfig.getOption('nblauncherLanguage'));
      let told = { notices: [], changed: [], changed_at: 0 };
      let ahead = 0; // seconds by which the server's clock is ahead of this one
      let seenChange = Infinity;

      const draw = () => {
        const clock = Date.now() / 1000 + ahead;
        const shown = current(told.notices, clock, words).filter(one => !dismissed.has(one.id));
        show(shown, one => {
          dismissed.add(one.id);
          draw();
        });
      };

      const ask = async () => {
        const answer = await ServerConnection.makeRequest(
          `${settings.baseUrl}api/nblauncher/notices`,
          { cache: 'no-store' },
          settings
        );
        if (!answer.ok) {
          return;
        }
        told = await answer.json();
        ahead = told.now - Date.now() / 1000;
        draw();
        if (told.changed_at > seenChange) {
          await showChanged(app, told.changed, words, apputils);
        }
        seenChange = told.changed_at;
      };

      const { Context } = await load('@jupyterlab/docregistry');
      if (typeof Context.prototype._raiseConflict === 'function') {
        Context.prototype._raiseConflict = askSafely(app, () => told.changed, words, apputils);
      } else {
        console.warn('nblauncher: JupyterLab asks its own question when a file changed on the server');
      }
      const quietly = () => void ask().catch(error => console.warn('nblauncher: no notices', error));
      app.serviceManager.events.stream.connect((_, event) => {
        if (event.schema_id === EVENT) {
          quietly();
        }
      });
      document.addEventListener('visibilitychange', () => document.hidden || quietly());
      setInterval(() => document.hidden || quietly(), POLL);
      setInterval(draw, 5000);
      app.started.then(quietly, quietly);
    }
  };

  window._JUPYTERLAB = window._JUPYTERLAB || {};
  window._JUPYTERLAB['nblauncher-notices'] = {
    init: scope => {
      shared = scope;
    },
    get: async () => () => ({ __esModule: true, default: plugin })
  };
})();
