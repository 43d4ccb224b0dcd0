// node_modules/preact/dist/preact.mjs
var e, t, n, r, i, a, o, s, c, l, u, d = Symbol.for("pv"), f = {}, p = [], m = /^m(i|n|o|s|text|space)$/, h = Array.isArray, g = p.slice, _ = Object.assign;
function v(e) {
	e && e.parentNode && e.remove();
}
function y(n, r, i, a, o) {
	var s = {
		type: n,
		props: r,
		key: i,
		ref: a,
		__k: null,
		__: null,
		__b: 0,
		__e: null,
		__c: null,
		constructor: d,
		__v: o || ++t,
		__i: -1,
		__u: 0
	};
	return !o && e.vnode && e.vnode(s), s;
}
function b(e) {
	return e.children;
}
function x(e, t) {
	this.props = e, this.context = t, this.__g = 0;
}
function S(e, t) {
	if (t == null) return e.__ && S(e.__, e.__i + 1);
	for (var n; t < e.__k.length; t++) if ((n = e.__k[t]) && n.__e) return n.__e;
	return typeof e.type != "function" || e.props.__P ? null : S(e);
}
function C(t) {
	var n, r = t.__v, i = r.__e, a = [], o = [], s = t.__P;
	s && ((n = _({ constructor: d }, r)).__v = r.__v + 1, e.vnode && e.vnode(n), k(s, n, r, t.__n, s.namespaceURI, 32 & r.__u ? [i] : null, a, i || S(r), 32 & r.__u, o), n.__v = r.__v, n.__.__k[n.__i] = n, se(a, n, o), r.__ = r.__e = null, n.__e != i && w(n));
}
function w(e) {
	if ((e = e.__) && e.__c && !e.props.__P) return e.__e = null, e.__k.some(function(t) {
		return t && (e.__e = t.__e);
	}), w(e);
}
function T(t) {
	(8 & t.__g || (t.__g |= 8, n.push(t), i++)) && r == e.debounceRendering || ((r = e.debounceRendering) || queueMicrotask)(E);
}
function E() {
	try {
		for (var e, t = 1; n.length;) n.length > t && n.sort(a), e = n.shift(), t = n.length, 8 & e.__g && C(e);
	} finally {
		(i = n.length) && (r || queueMicrotask)(E);
	}
}
function ee(e, t, n, r, i, a, o, s, c, l, u) {
	var d, m, h, g, _, v, y = r.__k || p, b = t.length;
	for (c = D(n, t, y, c, b), d = 0; d < b; d++) (h = n.__k[d]) != null && (m = ~h.__i && y[h.__i] || f, h.__i = d, v = k(e, h, m, i, a, o, s, c, l, u), g = h.__e, (m.ref != h.ref || 8 & m.__u) && (m.ref && A(m.ref, null, h, m), h.ref && u.push(h.ref, h.__c || g, h)), _ ||= g, 4 & h.__u ? (c = te(h, c, e, !m.__v), m.__e && (m.__e = null)) : typeof h.type == "function" && v !== void 0 ? c = v : g && (c = g.nextSibling), h.__u &= -21);
	return n.__e = _, c;
}
function D(e, t, n, r, i) {
	var a, o, s, c, l, u, f, p, m, g = n.length, _ = g, v = 0, x = 0, C = e.__k = Array(i);
	for (a = 0; a < i; a++) (o = t[a]) != null && typeof o != "boolean" && typeof o != "function" ? (typeof o != "object" || o.constructor === String ? o = C[a] = y(null, o) : h(o) ? o = C[a] = y(b, { children: o }) : o.constructor === d && o.__b ? o = C[a] = y(o.type, o.props, o.key, o.ref, o.__v) : C[a] = o, c = a + v, o.__ = e, o.__b = e.__b + 1, s = null, ~(l = o.__i = O(o, n, c, _)) && (_--, (s = n[l]) && (s.__u |= 2)), s && s.__v ? (o.__u |= 16, l == c - 1 ? v-- : l == c + 1 ? v++ : l != c && (l > c ? v-- : v++, x = 1)) : (~l || (i > g ? v-- : i < g && v++), typeof o.type != "function" && (o.__u |= 4))) : C[a] = null;
	if (x) {
		for (u = [], f = [], a = 0; a < i; a++) if ((o = C[a]) && 16 & o.__u) {
			for (v = 0, p = u.length; v < p;) u[m = v + p >> 1] < o.__i ? v = m + 1 : p = m;
			u[v] = o.__i, f[a] = v + 1;
		}
		for (v = u.length; a--;) f[a] && (f[a] == v ? v-- : C[a].__u |= 4);
	}
	if (_) for (a = 0; a < g; a++) !(s = n[a]) || 2 & s.__u || (s.__e == r && (r = S(s)), le(s, s));
	return r;
}
function te(e, t, n, r) {
	var i, a, o, s;
	if (typeof e.type == "function") {
		if (e.props.__P) return t;
		if (i = e.__k) for (a = 0; a < i.length; a++) i[a] && (i[a].__ = e, t = te(i[a], t, n, !1));
		return t;
	}
	for (t && !t.parentNode && (t = S(e)) && !t.parentNode && (t = null), o = e.__e, s = t; s && s.nodeType == 8;) s = s.nextSibling;
	for (o != s && (!r && n.moveBefore && o.parentNode ? n.moveBefore(o, t) : n.insertBefore(o, t || null)), t = o; (t &&= t.nextSibling) && t.nodeType == 8 && !t.data.startsWith("$s"););
	return t;
}
function O(e, t, n, r) {
	var i, a = e.key, o = e.type, s = t[n], c = s && !(2 & s.__u);
	if (s === null && a == null || c && a == s.key && o == s.type) return n;
	if (r > +!!c) {
		for (i = n - 1; i >= 0; i--) if ((s = t[i]) && !(2 & s.__u) && a == s.key && o == s.type) return i;
		for (i = n + 1; i < t.length; i++) if ((s = t[i]) && !(2 & s.__u) && a == s.key && o == s.type) return i;
	}
	return -1;
}
function ne(e, t, n) {
	n ??= "", t[0] == "-" ? e.setProperty(t, n) : e[t] = n;
}
function re(e, t, n, r, i) {
	var a, o;
	if (t == "style") {
		if (typeof n == "string") e.style.cssText = n;
		else {
			if (typeof r == "string" && (e.style.cssText = r = ""), r) for (t in r) n && t in n || ne(e.style, t);
			if (n) for (t in n) r && n[t] == r[t] || ne(e.style, t, n[t]);
		}
	} else if (t[0] == "o" && t[1] == "n") typeof n != "function" && (n = null), typeof r != "function" && (r = null), (e.__e ||= {})[t] = n, n && r || (o = l[t] || (l[t] = ie(t)), (e.__a ||= {})[t] = c, a = t != (t = t.replace(s, "$1")), (t = t.slice(2))[0] < "a" && (t = t.toLowerCase()), n ? e.addEventListener(t, o, a) : e.removeEventListener(t, o, a));
	else {
		if (i == "http://www.w3.org/2000/svg") t = t.replace(/xlink(H|:h)/, "h").replace(/sName$/, "s");
		else if (t != "width" && t != "height" && t != "href" && t != "list" && t != "form" && t != "tabIndex" && t != "download" && t != "rowSpan" && t != "colSpan" && t != "role" && t != "popover" && t in e) try {
			e[t] = n ?? "";
			return;
		} catch {}
		if (typeof n == "function") return;
		n == null || !1 === n && t[4] != "-" ? e.removeAttribute(t) : e.setAttribute(t, t == "popover" && n == 1 ? "" : n);
	}
}
function ie(t) {
	return function(n) {
		var r = this.__e;
		if (r) {
			if (r = r[t], n[o] == null) n[o] = c++;
			else if (n[o] < this.__a[t]) return;
			return r(e.event ? e.event(n) : n);
		}
	};
}
function k(t, n, r, i, a, o, s, c, l, u) {
	var f, m, g, y, C, w, T, E, D, te, O, ne, re, ie, k, se, A, j, M = n.type;
	if (n.constructor !== d) return null;
	128 & r.__u && (l = 32 & r.__u, f = r.__c.__z) && (n.__u |= l, m = o = [], f.nodeType == 8 ? c = ae(f, o) : o.push(f), c = o[0] || c), (f = e.__b) && f(n);
	n: if (typeof M == "function") {
		g = s.length;
		try {
			if (E = n.props, D = (f = M.prototype) && f.render, te = (f = M.contextType) && i[f.__c], O = f ? te ? te.props.value : f.__ : i, (y = r.__c) ? (n.__c = y, 2 & y.__g && (y.__g |= 1)) : (D ? n.__c = y = new M(E, O) : (n.__c = y = new x(E, O), y.constructor = M, y.render = ue), te && te.sub(y), y.state || (y.state = {}), y.__n = i, y.__g |= 8, y.__h = [], y.__k = []), D && (y.__s || (y.__s = y.state), M.getDerivedStateFromProps && (y.__s == y.state && (y.__s = _({}, y.__s)), _(y.__s, M.getDerivedStateFromProps(E, y.__s)))), C = y.props, w = y.state, y.__v = n, r.__c) {
				if (E !== C && D && !M.getDerivedStateFromProps && y.componentWillReceiveProps && y.componentWillReceiveProps(E, O), n.__v == r.__v && !(8 & y.__g) || !(4 & y.__g) && y.shouldComponentUpdate && !1 === y.shouldComponentUpdate(E, y.__s, O)) {
					n.__v != r.__v && (y.props = E, y.state = y.__s, y.__g &= -9), n.__e = r.__e, n.__k = r.__k, n.__k.some(function(e) {
						e && (e.__ = n);
					}), p.push.apply(y.__h, y.__k), y.__k = [], y.__h.length && s.push(y), c = S(r);
					break n;
				}
				y.componentWillUpdate && y.componentWillUpdate(E, y.__s, O), D && y.componentDidUpdate && y.__h.push(function() {
					y.componentDidUpdate(C, w, T);
				});
			} else D && !M.getDerivedStateFromProps && y.componentWillMount && y.componentWillMount(), D && y.componentDidMount && y.__h.push(y.componentDidMount);
			y.context = O, y.props = E, y.__P = t, y.__g &= -5, ne = e.__r, re = D ? 25 : 0;
			do
				y.__g &= -9, ne && ne(n), f = y.render(y.props, y.state = y.__s, y.context);
			while (8 & y.__g && ++re < 25);
			D && (p.push.apply(y.__h, y.__k), y.__k = []), y.state = y.__s, y.getChildContext && (i = _({}, i, y.getChildContext())), D && r.__c && y.getSnapshotBeforeUpdate && (T = y.getSnapshotBeforeUpdate(C, w)), ie = f && f.type === b && f.key == null ? f.props.children : f, E.__P && (f = c, a = (t = E.__P).namespaceURI, l = o = null, r.props && r.props.__P != t && (r.__k.some(function(e) {
				e && le(e, e);
			}), r.__k = null), c = r.__k ? S(r, 0) : null), c = ee(t, h(ie) ? ie : [ie], n, r, i, a, o, s, c, l, u), E.__P && (n.__e = null, c = f), n.__u &= -161, m && m.some(v), y.__h.length && s.push(y), 1 & y.__g && (y.__g &= -4);
		} catch (t) {
			if (s.length = g, n.__v = null, l || o) {
				if (t && t.then) {
					if (n.__u |= 128 | l, o) {
						for (~(A = o.indexOf(c || void 0)) || (A = o.length); (j = o[A - 1]) && j.nodeType == 8;) A--;
						for (; A < o.length; A++) if (j = o[A]) {
							if (o[A] = null, k) {
								if (j == se) break;
							} else {
								if (j.nodeType != 8) break;
								j.data.startsWith("$s") && (se = ae(k = j));
							}
						}
					}
					if (!k) {
						for (; c && c.nodeType == 8 && c.nextSibling;) c = c.nextSibling;
						k = c;
					}
					(f = ae(k = n.__c.__z || (n.__c.__z = k))) ? (n.__e = k, c = f) : n.__e = c, c &&= c.nextSibling;
				} else o && o.some(v);
			} else n.__e = r.__e;
			n.__k ||= r.__k || [], t && t.then || oe(n), e.__e(t, n, r);
		}
	} else c = n.__e = ce(r.__e, n, r, i, a, o, s, l, u, t);
	return (f = e.diffed) && f(n), c;
}
function ae(e, t) {
	if (e && e.nodeType == 8 && e.data.startsWith("$s")) for (var n = 1; e = e.nextSibling;) {
		if (e.nodeType == 8) {
			if (e.data.startsWith("$s")) n++;
			else if (e.data.startsWith("/$s") && !--n) return e;
		}
		t && t.push(e);
	}
}
function oe(e) {
	e && (e.__c && (e.__c.__g |= 4), e.__k && e.__k.some(oe));
}
function se(t, n, r) {
	for (var i = 0; i < r.length;) A(r[i++], r[i++], r[i++]);
	e.__c && e.__c(n, t), t.some(function(n) {
		try {
			t = n.__h, n.__h = [], t.some(function(e) {
				e.call(n);
			});
		} catch (t) {
			e.__e(t, n.__v);
		}
	});
}
function ce(t, n, r, i, a, o, s, c, l, u) {
	var d, p, _, y, b, x, C, w, T = r.props || f, E = n.props, D = n.type;
	if (D == "svg" ? a = "http://www.w3.org/2000/svg" : D == "math" ? a = "http://www.w3.org/1998/Math/MathML" : a ||= "http://www.w3.org/1999/xhtml", o) {
		for (d = 0; d < o.length; d++) if ((b = o[d]) && (D ? b.localName == D : b.nodeType == 3)) {
			t = b, o[d] = null;
			break;
		}
	}
	if (!t) {
		if (w = u.ownerDocument || document, !D) return w.createTextNode(E);
		t = w.createElementNS(a, D, E.is ? E : u), c &&= (e.__m && e.__m(n, o), !1), o = null;
	}
	if (D) {
		if (u = D == "template" && t.content || t, o = D == "textarea" && E.defaultValue != null ? null : o && g.call(u.childNodes), !c && o) for (T = {}, d = 0; d < t.attributes.length; d++) T[(b = t.attributes[d]).name] = b.value;
		for (d in T) b = T[d], d == "dangerouslySetInnerHTML" ? _ = b : d == "children" || d in E || d == "value" && "defaultValue" in E || d == "checked" && "defaultChecked" in E || re(t, d, null, b, a);
		for (d in E) b = E[d], d == "children" ? y = b : d == "dangerouslySetInnerHTML" ? p = b : d == "value" ? x = b : d == "checked" ? C = b : c && typeof b != "function" || T[d] === b || re(t, d, b, T[d], a);
		p ? (c || _ && (p.__html == _.__html || p.__html == t.innerHTML) || (t.innerHTML = p.__html), n.__k = []) : (_ && (t.textContent = ""), (D == "foreignObject" || a == "http://www.w3.org/1998/Math/MathML" && m.test(D)) && (a = "http://www.w3.org/1999/xhtml"), ee(u, h(y) ? y : [y], n, r, i, a, o, s, o ? o[0] : r.__k && S(r, 0), c, l), o && o.some(v)), c && D != "textarea" || (d = "value", D == "progress" && x == null ? t.removeAttribute(d) : x == null || x === t[d] && (D != "progress" || x) || re(t, d, x, T[d], a), d = "checked", C != null && C != t[d] && re(t, d, C, T[d], a));
	} else T === E || c && t.data == E || (t.data = E);
	return t;
}
function A(t, n, r, i) {
	try {
		typeof t == "function" ? n ? n.__x = t(n) || 1 : (i &&= i.__c || i.__e) && (n = i.__x) && (i.__x = null, typeof n == "function" ? n() : t(null)) : t.current = n;
	} catch (t) {
		e.__e(t, r);
	}
}
function le(t, n, r) {
	var i, a, o, s;
	if (e.unmount && e.unmount(t), !(i = t.ref) || i.current && i.current != t.__e || A(i, null, n, t), i = t.__c) {
		if (i.componentWillUnmount) try {
			i.componentWillUnmount();
		} catch (t) {
			e.__e(t, n);
		}
		i.__P = i.__n = null;
	}
	if (i = t.__k) for (s = 0; s < i.length; s++) i[s] && le(i[s], n, typeof t.type != "function" || r && !t.props.__P);
	!r && (i = t.__c) && (i = i.__z) && (a = ae(i, o = [])) && (i == t.__e && o.some(v), v(a), v(i)), r || v(t.__e), t.__e = t.__c = t.__ = null;
}
function ue(e, t, n) {
	return this.constructor(e, n);
}
function j(t, n) {
	var r, i, a, o;
	e.__ && e.__(t, n), n.nodeType == 9 && (n = n.documentElement), i = (r = t && 32 & t.__u) ? null : n.__k, n.__k = y(b, { children: [t] }), a = [], o = [], k(n, n.__k, i || f, f, n.namespaceURI, i ? null : n.firstChild ? g.call(n.childNodes) : null, a, i ? i.__e : n.firstChild, r, o), se(a, n.__k, o), n.__k.props.children = null;
}
function M(e) {
	function t(e) {
		var n, r;
		return this.getChildContext || (n = /* @__PURE__ */ new Set(), (r = {})[t.__c] = this, this.getChildContext = function() {
			return r;
		}, this.shouldComponentUpdate = function(e) {
			this.props.value != e.value && n.forEach(function(e) {
				e.__g |= 4, T(e);
			});
		}, this.sub = function(e) {
			n.add(e);
			var t = e.componentWillUnmount;
			e.componentWillUnmount = function() {
				n.delete(e), t && t.call(e);
			};
		}), e.children;
	}
	return t.__c = "__cC" + u++, t.__ = e, t.Provider = (t.Consumer = function(e, t) {
		return e.children(t);
	}).contextType = t, t;
}
e = { __e: function(e, t, n, r) {
	for (var a, o, s; t = t.__;) if ((a = t.__c) && !(1 & a.__g)) {
		a.__g |= 4;
		try {
			if ((s = (o = a.constructor) && o.getDerivedStateFromError) && a.setState(o.getDerivedStateFromError(e)), a.componentDidCatch && (a.componentDidCatch(e, r || {}), s = 1), s && 8 & a.__g) return void (a.__g |= 2);
		} catch (t) {
			e = t;
		}
	}
	throw i = 0, e;
} }, t = 0, x.prototype.setState = function(e, t) {
	var n = this.__s;
	n && n != this.state || (n = this.__s = _({}, this.state)), typeof e == "function" && (e = e(_({}, n), this.props)), e && (_(n, e), this.__v && (t && this.__k.push(t), T(this)));
}, x.prototype.forceUpdate = function(e) {
	this.__v && (this.__g |= 4, e && this.__h.push(e), T(this));
}, x.prototype.render = b, n = [], i = 0, a = function(e, t) {
	return e.__v.__b - t.__v.__b;
}, o = Symbol(), s = /(PointerCapture)$|Capture$/i, c = 0, l = {}, u = 0;
// node_modules/preact/hooks/dist/hooks.mjs
var N, P, de, fe, pe = Object.is, me = 0, he = [], ge = [], F = e, _e = F.__b, ve = F.__r, ye = F.diffed, be = F.__c, xe = F.unmount, Se = F.__;
function Ce(e, t) {
	F.__h && F.__h(P, e, me || t), me = 0;
	var n = P.__H || (P.__H = {
		__: [],
		__h: []
	});
	return e >= n.__.length && n.__.push({}), n.__[e];
}
function I(e) {
	return me = 1, we(Re, e);
}
function we(e, t, n) {
	var r = Ce(N++, 2);
	if (r.t = e, !r.__c && (r.__ = [n ? n(t) : Re(void 0, t), function(e) {
		var t = (r.__N || r.__)[0], n = r.t(t, e);
		pe(t, n) || (r.__N = [n, r.__[1]], r.__c.setState({}));
	}], r.__c = P, !P.__f)) {
		P.__f = !0;
		var i = P.shouldComponentUpdate;
		P.shouldComponentUpdate = function(e, t, n) {
			var r = this.__H;
			if (!r) return !0;
			var a = !1, o = this.props != e;
			if (r.__.some(function(e) {
				e.__N && (a = !0, pe(e.__[0], e.__N[0]) || (o = !0));
			}), i) {
				var s = i.call(this, e, t, n);
				return a ? s || o : s;
			}
			return !a || o;
		};
	}
	return r.__;
}
function Te(e, t) {
	var n = Ce(N++, 3);
	!F.__s && Le(n.__H, t) && (n.__P = !0, n.__ = e, n.u = t, P.__H.__h.push(n));
}
function Ee(e, t) {
	var n = Ce(N++, 4);
	!F.__s && Le(n.__H, t) && (n.__P = !1, n.__ = e, n.u = t, P.__h.push(n));
}
function De(e) {
	return me = 5, L(function() {
		return { current: e };
	}, []);
}
function L(e, t) {
	var n = Ce(N++, 7);
	return Le(n.__H, t) && (n.__ = e(), n.__H = t), n.__;
}
function Oe(e, t) {
	return me = 8, L(function() {
		return e;
	}, t);
}
function ke(e) {
	var t = P.context[e.__c], n = Ce(N++, 9);
	return n.c = e, t ? (n.__ ?? (n.__ = !0, t.sub(P)), t.props.value) : e.__;
}
function Ae() {
	var e = Ce(N++, 11);
	if (!e.__) {
		for (var t = P.__v; !t.__m && t.__;) t = t.__;
		var n = t.__m || (t.__m = [0, 0]);
		e.__ = "P" + n[0] + "-" + n[1]++;
	}
	return e.__;
}
function je() {
	var e;
	do {
		for (; e = ge.shift();) try {
			Fe(e);
		} catch (t) {
			F.__e(t, { __: (e = e.__P) && e.__v });
		}
		for (; e = he.shift();) {
			var t = e.__H;
			if (e.__P && t) try {
				t.__h.some(Fe), t.__h.some(Ie), t.__h = [];
			} catch (n) {
				t.__h = [], F.__e(n, e.__v);
			}
		}
	} while (ge.length);
}
F.__b = function(e) {
	P = null, _e && _e(e);
}, F.__ = function(e, t) {
	e && t.__k && t.__k.__m && (e.__m = t.__k.__m), Se && Se(e, t);
}, F.__r = function(e) {
	ve && ve(e), N = 0;
	var t = (P = e.__c).__H;
	t && (de == P ? P.__h = [] : (t.__h.some(Fe), t.__h.some(Ie), N = 0), t.__h = [], t.__.some(function(e) {
		e.__N && (e.__ = e.__N), e.u = e.__N = void 0;
	})), de = P;
}, F.diffed = function(e) {
	ye && ye(e);
	var t = e.__c;
	t && t.__H && (t.__H.__h.length && Pe(he.push(t)), t.__H.__.some(function(e) {
		e.u && (e.__H = e.u);
	})), de = P = null;
}, F.__c = function(e, t) {
	t.some(function(e) {
		try {
			e.__h.some(Fe), e.__h = e.__h.filter(function(e) {
				return !e.__ || Ie(e);
			});
		} catch (t) {
			e.__h = [function() {
				throw t;
			}];
		}
	}), be && be(e, t);
}, F.unmount = function(e) {
	xe && xe(e);
	var t, n, r = e.__c;
	r && r.__H && (r.__H.__.some(function(r) {
		try {
			if (r.__P && r.__c) {
				if (n === void 0) {
					for (n = e.__; n && (!n.__c || !n.__c.__P);) n = n.__;
					n &&= n.__c;
				}
				r.__P = n, Pe(ge.push(r));
			} else Fe(r);
		} catch (e) {
			t = e;
		}
	}), r.__H = void 0, t && F.__e(t, r.__v));
};
var Me = typeof requestAnimationFrame == "function";
function Ne(e) {
	var t, n = function() {
		clearTimeout(r), Me && cancelAnimationFrame(t), setTimeout(e);
	}, r = setTimeout(n, 35);
	Me && (t = requestAnimationFrame(n));
}
function Pe(e) {
	e != 1 && fe == F.requestAnimationFrame || ((fe = F.requestAnimationFrame) || Ne)(je);
}
function Fe(e) {
	var t = P, n = e.__c;
	typeof n == "function" && (e.__c = void 0, n()), P = t;
}
function Ie(e) {
	var t = P;
	e.__c = e.__(), P = t;
}
function Le(e, t) {
	return !e || e.length != t.length || t.some(function(t, n) {
		return !pe(t, e[n]);
	});
}
function Re(e, t) {
	return typeof t == "function" ? t(e) : t;
}
// node_modules/preact/jsx-runtime/dist/jsxRuntime.mjs
var ze = Symbol.for("pv"), Be = 0;
Array.isArray;
function R(t, n, r, i, a, o) {
	n ||= {};
	var s, c, l = n;
	if ("ref" in l && typeof t != "function") for (c in l = {}, n) c == "ref" ? s = n[c] : l[c] = n[c];
	var u = {
		type: t,
		props: l,
		key: r,
		ref: s,
		__k: null,
		__: null,
		__b: 0,
		__e: null,
		__c: null,
		constructor: ze,
		__v: --Be,
		__i: -1,
		__u: 0
	};
	return (a || o) && (u.__source = a, u.__self = o), e.vnode && e.vnode(u), u;
}
// src/about/About.tsx
function Ve({ traces: e }) {
	return /* @__PURE__ */ R("ul", {
		class: "limits",
		children: [...new Set(e.flatMap((e) => e.facts.not_shown))].map((e) => /* @__PURE__ */ R("li", { children: e }, e))
	});
}
function He({ trace: e }) {
	return /* @__PURE__ */ R("dl", {
		class: "provenance",
		children: e.facts.provenance.map(([e, t]) => /* @__PURE__ */ R("div", { children: [/* @__PURE__ */ R("dt", { children: e }), /* @__PURE__ */ R("dd", { children: String(t) })] }, e))
	});
}
// node_modules/d3-array/dist/d3-array.mjs
function Ue(e, t) {
	return e == null || t == null ? NaN : e < t ? -1 : e > t ? 1 : e >= t ? 0 : NaN;
}
function We(e, t) {
	return e == null || t == null ? NaN : t < e ? -1 : t > e ? 1 : t >= e ? 0 : NaN;
}
function Ge(e) {
	let t, n, r;
	e.length === 2 ? (t = e === Ue || e === We ? e : Ke, n = e, r = e) : (t = Ue, n = (t, n) => Ue(e(t), n), r = (t, n) => e(t) - n);
	function i(e, r, i = 0, a = e.length) {
		if (i < a) {
			if (t(r, r) !== 0) return a;
			do {
				let t = i + a >>> 1;
				n(e[t], r) < 0 ? i = t + 1 : a = t;
			} while (i < a);
		}
		return i;
	}
	function a(e, r, i = 0, a = e.length) {
		if (i < a) {
			if (t(r, r) !== 0) return a;
			do {
				let t = i + a >>> 1;
				n(e[t], r) <= 0 ? i = t + 1 : a = t;
			} while (i < a);
		}
		return i;
	}
	function o(e, t, n = 0, a = e.length) {
		let o = i(e, t, n, a - 1);
		return o > n && r(e[o - 1], t) > -r(e[o], t) ? o - 1 : o;
	}
	return {
		left: i,
		center: o,
		right: a
	};
}
function Ke() {
	return 0;
}
function qe(e) {
	return e === null ? NaN : +e;
}
var Je = Ge(Ue), Ye = Je.right;
Je.left, Ge(qe).center;
function Xe(e, t) {
	let n = 0;
	if (t === void 0) for (let t of e) t != null && (t = +t) >= t && ++n;
	else {
		let r = -1;
		for (let i of e) (i = t(i, ++r, e)) != null && (i = +i) >= i && ++n;
	}
	return n;
}
function Ze(e, t) {
	let n, r;
	if (t === void 0) for (let t of e) t != null && (n === void 0 ? t >= t && (n = r = t) : (n > t && (n = t), r < t && (r = t)));
	else {
		let i = -1;
		for (let a of e) (a = t(a, ++i, e)) != null && (n === void 0 ? a >= a && (n = r = a) : (n > a && (n = a), r < a && (r = a)));
	}
	return [n, r];
}
function Qe(e) {
	return e;
}
var $e = Array.prototype.slice;
function et(e) {
	return () => e;
}
var tt = Math.sqrt(50), nt = Math.sqrt(10), rt = Math.sqrt(2);
function it(e, t, n) {
	let r = (t - e) / Math.max(0, n), i = Math.floor(Math.log10(r)), a = r / 10 ** i, o = a >= tt ? 10 : a >= nt ? 5 : a >= rt ? 2 : 1, s, c, l;
	return i < 0 ? (l = 10 ** -i / o, s = Math.round(e * l), c = Math.round(t * l), s / l < e && ++s, c / l > t && --c, l = -l) : (l = 10 ** i * o, s = Math.round(e / l), c = Math.round(t / l), s * l < e && ++s, c * l > t && --c), c < s && .5 <= n && n < 2 ? it(e, t, n * 2) : [
		s,
		c,
		l
	];
}
function at(e, t, n) {
	if (t = +t, e = +e, n = +n, !(n > 0)) return [];
	if (e === t) return [e];
	let r = t < e, [i, a, o] = r ? it(t, e, n) : it(e, t, n);
	if (!(a >= i)) return [];
	let s = a - i + 1, c = Array(s);
	if (r) {
		if (o < 0) for (let e = 0; e < s; ++e) c[e] = (a - e) / -o;
		else for (let e = 0; e < s; ++e) c[e] = (a - e) * o;
	} else if (o < 0) for (let e = 0; e < s; ++e) c[e] = (i + e) / -o;
	else for (let e = 0; e < s; ++e) c[e] = (i + e) * o;
	return c;
}
function ot(e, t, n) {
	return t = +t, e = +e, n = +n, it(e, t, n)[2];
}
function st(e, t, n) {
	t = +t, e = +e, n = +n;
	let r = t < e, i = r ? ot(t, e, n) : ot(e, t, n);
	return (r ? -1 : 1) * (i < 0 ? 1 / -i : i);
}
function ct(e, t, n) {
	let r;
	for (;;) {
		let i = ot(e, t, n);
		if (i === r || i === 0 || !isFinite(i)) return [e, t];
		if (i > 0) {
			let n = Math.ceil(e / i), r = Math.floor(t / i);
			e = (n - (n * i > e)) * i, t = (r + (r * i < t)) * i;
		} else if (i < 0) {
			let n = -i, r = Math.ceil(e * n), a = Math.floor(t * n);
			e = (r - (r / n > e)) / n, t = (a + (a / n < t)) / n;
		}
		r = i;
	}
}
function lt(e) {
	return Math.max(1, Math.ceil(Math.log(Xe(e)) / Math.LN2) + 1);
}
function ut() {
	var e = Qe, t = Ze, n = lt;
	function r(r) {
		Array.isArray(r) || (r = Array.from(r));
		var i, a = r.length, o, s, c = Array(a);
		for (i = 0; i < a; ++i) c[i] = e(r[i], i, r);
		var l = t(c), u = l[0], d = l[1], f = n(c, u, d);
		if (!Array.isArray(f)) {
			let e = d, n = +f;
			if (t === Ze && ([u, d] = ct(u, d, n)), f = at(u, d, n), f[0] <= u && (s = ot(u, d, n)), f[f.length - 1] >= d) {
				if (e >= d && t === Ze) {
					let e = ot(u, d, n);
					isFinite(e) && (e > 0 ? d = (Math.floor(d / e) + 1) * e : e < 0 && (d = (Math.ceil(d * -e) + 1) / -e));
				} else f.pop();
			}
		}
		for (var p = f.length, m = 0, h = p; f[m] <= u;) ++m;
		for (; f[h - 1] > d;) --h;
		(m || h < p) && (f = f.slice(m, h), p = h - m);
		var g = Array(p + 1), _;
		for (i = 0; i <= p; ++i) _ = g[i] = [], _.x0 = i > 0 ? f[i - 1] : u, _.x1 = i < p ? f[i] : d;
		if (isFinite(s)) {
			if (s > 0) for (i = 0; i < a; ++i) (o = c[i]) != null && u <= o && o <= d && g[Math.min(p, Math.floor((o - u) / s))].push(r[i]);
			else if (s < 0) {
				for (i = 0; i < a; ++i) if ((o = c[i]) != null && u <= o && o <= d) {
					let e = Math.floor((u - o) * s);
					g[Math.min(p, e + (f[e] <= o))].push(r[i]);
				}
			}
		} else for (i = 0; i < a; ++i) (o = c[i]) != null && u <= o && o <= d && g[Ye(f, o, 0, p)].push(r[i]);
		return g;
	}
	return r.value = function(t) {
		return arguments.length ? (e = typeof t == "function" ? t : et(t), r) : e;
	}, r.domain = function(e) {
		return arguments.length ? (t = typeof e == "function" ? e : et([e[0], e[1]]), r) : t;
	}, r.thresholds = function(e) {
		return arguments.length ? (n = typeof e == "function" ? e : et(Array.isArray(e) ? $e.call(e) : e), r) : n;
	}, r;
}
function dt(e, t) {
	let n;
	if (t === void 0) for (let t of e) t != null && (n < t || n === void 0 && t >= t) && (n = t);
	else {
		let r = -1;
		for (let i of e) (i = t(i, ++r, e)) != null && (n < i || n === void 0 && i >= i) && (n = i);
	}
	return n;
}
function ft(e, t) {
	let n;
	if (t === void 0) for (let t of e) t != null && (n > t || n === void 0 && t >= t) && (n = t);
	else {
		let r = -1;
		for (let i of e) (i = t(i, ++r, e)) != null && (n > i || n === void 0 && i >= i) && (n = i);
	}
	return n;
}
function pt(e, t, n = qe) {
	if ((r = e.length) && !isNaN(t = +t)) {
		if (t <= 0 || r < 2) return +n(e[0], 0, e);
		if (t >= 1) return +n(e[r - 1], r - 1, e);
		var r, i = (r - 1) * t, a = Math.floor(i), o = +n(e[a], a, e);
		return o + (+n(e[a + 1], a + 1, e) - o) * (i - a);
	}
}
function mt(e, t) {
	let n = 0, r = 0;
	if (t === void 0) for (let t of e) t != null && (t = +t) >= t && (++n, r += t);
	else {
		let i = -1;
		for (let a of e) (a = t(a, ++i, e)) != null && (a = +a) >= a && (++n, r += a);
	}
	if (n) return r / n;
}
function ht(e, t) {
	let n = 0;
	if (t === void 0) for (let t of e) (t = +t) && (n += t);
	else {
		let r = -1;
		for (let i of e) (i = +t(i, ++r, e)) && (n += i);
	}
	return n;
}
// node_modules/d3-format/dist/d3-format.mjs
function gt(e) {
	return Math.abs(e = Math.round(e)) >= 1e21 ? e.toLocaleString("en").replace(/,/g, "") : e.toString(10);
}
function _t(e, t) {
	if (!isFinite(e) || e === 0) return null;
	var n = (e = t ? e.toExponential(t - 1) : e.toExponential()).indexOf("e"), r = e.slice(0, n);
	return [r.length > 1 ? r[0] + r.slice(2) : r, +e.slice(n + 1)];
}
function vt(e) {
	return e = _t(Math.abs(e)), e ? e[1] : NaN;
}
function yt(e, t) {
	return function(n, r) {
		for (var i = n.length, a = [], o = 0, s = e[0], c = 0; i > 0 && s > 0 && (c + s + 1 > r && (s = Math.max(1, r - c)), a.push(n.substring(i -= s, i + s)), !((c += s + 1) > r));) s = e[o = (o + 1) % e.length];
		return a.reverse().join(t);
	};
}
function bt(e) {
	return function(t) {
		return t.replace(/[0-9]/g, function(t) {
			return e[+t];
		});
	};
}
var xt = /^(?:(.)?([<>=^]))?([+\-( ])?([$#])?(0)?(\d+)?(,)?(\.\d+)?(~)?([a-z%])?$/i;
function St(e) {
	if (!(t = xt.exec(e))) throw Error("invalid format: " + e);
	var t;
	return new Ct({
		fill: t[1],
		align: t[2],
		sign: t[3],
		symbol: t[4],
		zero: t[5],
		width: t[6],
		comma: t[7],
		precision: t[8] && t[8].slice(1),
		trim: t[9],
		type: t[10]
	});
}
St.prototype = Ct.prototype;
function Ct(e) {
	this.fill = e.fill === void 0 ? " " : e.fill + "", this.align = e.align === void 0 ? ">" : e.align + "", this.sign = e.sign === void 0 ? "-" : e.sign + "", this.symbol = e.symbol === void 0 ? "" : e.symbol + "", this.zero = !!e.zero, this.width = e.width === void 0 ? void 0 : +e.width, this.comma = !!e.comma, this.precision = e.precision === void 0 ? void 0 : +e.precision, this.trim = !!e.trim, this.type = e.type === void 0 ? "" : e.type + "";
}
Ct.prototype.toString = function() {
	return this.fill + this.align + this.sign + this.symbol + (this.zero ? "0" : "") + (this.width === void 0 ? "" : Math.max(1, this.width | 0)) + (this.comma ? "," : "") + (this.precision === void 0 ? "" : "." + Math.max(0, this.precision | 0)) + (this.trim ? "~" : "") + this.type;
};
function wt(e) {
	out: for (var t = e.length, n = 1, r = -1, i; n < t; ++n) switch (e[n]) {
		case ".":
			r = i = n;
			break;
		case "0":
			r === 0 && (r = n), i = n;
			break;
		default:
			if (!+e[n]) break out;
			r > 0 && (r = 0);
	}
	return r > 0 ? e.slice(0, r) + e.slice(i + 1) : e;
}
var Tt;
function Et(e, t) {
	var n = _t(e, t);
	if (!n) return Tt = void 0, e.toPrecision(t);
	var r = n[0], i = n[1], a = i - (Tt = Math.max(-8, Math.min(8, Math.floor(i / 3))) * 3) + 1, o = r.length;
	return a === o ? r : a > o ? r + Array(a - o + 1).join("0") : a > 0 ? r.slice(0, a) + "." + r.slice(a) : "0." + Array(1 - a).join("0") + _t(e, Math.max(0, t + a - 1))[0];
}
function Dt(e, t) {
	var n = _t(e, t);
	if (!n) return e + "";
	var r = n[0], i = n[1];
	return i < 0 ? "0." + Array(-i).join("0") + r : r.length > i + 1 ? r.slice(0, i + 1) + "." + r.slice(i + 1) : r + Array(i - r.length + 2).join("0");
}
var Ot = {
	"%": (e, t) => (e * 100).toFixed(t),
	b: (e) => Math.round(e).toString(2),
	c: (e) => e + "",
	d: gt,
	e: (e, t) => e.toExponential(t),
	f: (e, t) => e.toFixed(t),
	g: (e, t) => e.toPrecision(t),
	o: (e) => Math.round(e).toString(8),
	p: (e, t) => Dt(e * 100, t),
	r: Dt,
	s: Et,
	X: (e) => Math.round(e).toString(16).toUpperCase(),
	x: (e) => Math.round(e).toString(16)
};
function kt(e) {
	return e;
}
var At = Array.prototype.map, jt = [
	"y",
	"z",
	"a",
	"f",
	"p",
	"n",
	"µ",
	"m",
	"",
	"k",
	"M",
	"G",
	"T",
	"P",
	"E",
	"Z",
	"Y"
];
function Mt(e) {
	var t = e.grouping === void 0 || e.thousands === void 0 ? kt : yt(At.call(e.grouping, Number), e.thousands + ""), n = e.currency === void 0 ? "" : e.currency[0] + "", r = e.currency === void 0 ? "" : e.currency[1] + "", i = e.decimal === void 0 ? "." : e.decimal + "", a = e.numerals === void 0 ? kt : bt(At.call(e.numerals, String)), o = e.percent === void 0 ? "%" : e.percent + "", s = e.minus === void 0 ? "−" : e.minus + "", c = e.nan === void 0 ? "NaN" : e.nan + "";
	function l(e, l) {
		e = St(e);
		var u = e.fill, d = e.align, f = e.sign, p = e.symbol, m = e.zero, h = e.width, g = e.comma, _ = e.precision, v = e.trim, y = e.type;
		y === "n" ? (g = !0, y = "g") : Ot[y] || (_ === void 0 && (_ = 12), v = !0, y = "g"), (m || u === "0" && d === "=") && (m = !0, u = "0", d = "=");
		var b = (l && l.prefix !== void 0 ? l.prefix : "") + (p === "$" ? n : p === "#" && /[boxX]/.test(y) ? "0" + y.toLowerCase() : ""), x = (p === "$" ? r : /[%p]/.test(y) ? o : "") + (l && l.suffix !== void 0 ? l.suffix : ""), S = Ot[y], C = /[defgprs%]/.test(y);
		_ = _ === void 0 ? 6 : /[gprs]/.test(y) ? Math.max(1, Math.min(21, _)) : Math.max(0, Math.min(20, _));
		function w(e) {
			var n = b, r = x, o, l, p;
			if (y === "c") r = S(e) + r, e = "";
			else {
				e = +e;
				var w = e < 0 || 1 / e < 0;
				if (e = isNaN(e) ? c : S(Math.abs(e), _), v && (e = wt(e)), w && +e == 0 && f !== "+" && (w = !1), n = (w ? f === "(" ? f : s : f === "-" || f === "(" ? "" : f) + n, r = (y === "s" && !isNaN(e) && Tt !== void 0 ? jt[8 + Tt / 3] : "") + r + (w && f === "(" ? ")" : ""), C) {
					for (o = -1, l = e.length; ++o < l;) if (p = e.charCodeAt(o), 48 > p || p > 57) {
						r = (p === 46 ? i + e.slice(o + 1) : e.slice(o)) + r, e = e.slice(0, o);
						break;
					}
				}
			}
			g && !m && (e = t(e, Infinity));
			var T = n.length + e.length + r.length, E = T < h ? Array(h - T + 1).join(u) : "";
			switch (g && m && (e = t(E + e, E.length ? h - r.length : Infinity), E = ""), d) {
				case "<":
					e = n + e + r + E;
					break;
				case "=":
					e = n + E + e + r;
					break;
				case "^":
					e = E.slice(0, T = E.length >> 1) + n + e + r + E.slice(T);
					break;
				default: e = E + n + e + r;
			}
			return a(e);
		}
		return w.toString = function() {
			return e + "";
		}, w;
	}
	function u(e, t) {
		var n = Math.max(-8, Math.min(8, Math.floor(vt(t) / 3))) * 3, r = 10 ** -n, i = l((e = St(e), e.type = "f", e), { suffix: jt[8 + n / 3] });
		return function(e) {
			return i(r * e);
		};
	}
	return {
		format: l,
		formatPrefix: u
	};
}
var Nt, z, Pt;
Ft({
	thousands: ",",
	grouping: [3],
	currency: ["$", ""]
});
function Ft(e) {
	return Nt = Mt(e), z = Nt.format, Pt = Nt.formatPrefix, Nt;
}
function It(e) {
	return Math.max(0, -vt(Math.abs(e)));
}
function Lt(e, t) {
	return Math.max(0, Math.max(-8, Math.min(8, Math.floor(vt(t) / 3))) * 3 - vt(Math.abs(e)));
}
function Rt(e, t) {
	return e = Math.abs(e), t = Math.abs(t) - e, Math.max(0, vt(t) - vt(e)) + 1;
}
// src/format.ts
var B = z(",d"), zt = z(",.1~f"), Bt = z(".2f"), Vt = z(".3f"), Ht = z(".2~e");
function V(e) {
	return e === null ? "unknown" : `${Bt(e)} ×`;
}
function Ut(e) {
	return `${z(".1f")(e)}×`;
}
function H(e) {
	let t = e * 100, n = Math.min(Math.abs(t), Math.abs(100 - t));
	if (n === 0) return `${t.toFixed(0)} %`;
	let r = n >= 10 ? 0 : n >= 1 ? 1 : Math.min(6, 1 + Math.ceil(-Math.log10(n)));
	return `${z(`.${r}~f`)(t)} %`;
}
function U(e) {
	return e === null ? "not recorded" : e === -Infinity ? "masked" : e === Infinity ? "∞" : e !== 0 && Math.abs(e) < .001 ? Ht(e) : Vt(e);
}
var Wt = [
	"bytes",
	"KB",
	"MB",
	"GB",
	"TB",
	"PB"
];
function Gt(e) {
	return qt(e, Wt);
}
function Kt(e) {
	return qt(e, [
		"",
		"thousand",
		"million",
		"billion",
		"trillion"
	]).trim();
}
function qt(e, t) {
	let n = Math.min(t.length - 1, e < 1e3 ? 0 : Math.floor(Math.log10(e) / 3));
	return `${z(n ? ".3~r" : ",d")(e / 1e3 ** n)} ${t[n]}`;
}
function Jt(e, t, n = `${t}s`) {
	return `${B(e)} ${e === 1 ? t : n}`;
}
function Yt(e) {
	return e.length < 2 ? e.join("") : `${e.slice(0, -1).join(", ")} and ${e[e.length - 1]}`;
}
// src/scroll-table.tsx
function Xt({ label: e, class: t, columns: n, children: r }) {
	return /* @__PURE__ */ R("section", {
		class: "scroll",
		tabIndex: 0,
		"aria-label": e,
		children: /* @__PURE__ */ R("table", {
			class: t,
			children: [/* @__PURE__ */ R("thead", { children: /* @__PURE__ */ R("tr", { children: n.map((e) => /* @__PURE__ */ R("th", {
				scope: "col",
				children: e
			}, e)) }) }), /* @__PURE__ */ R("tbody", { children: r })]
		})
	});
}
// src/text/tokens.ts
var Zt = {
	"\n": "↵",
	"\r": "␍",
	"	": "⇥",
	"\xA0": "⍽"
}, Qt = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\u00a0]/gu, $t = 60;
function W(e, t) {
	if (e === null) return t === null ? "·" : `#${t}`;
	if (e === "") return "∅";
	let n = e.replace(Qt, (e) => Zt[e] ?? `‹${(e.codePointAt(0) ?? 0).toString(16).toUpperCase()}›`), r = n.length > $t ? [...n] : null, i = r && r.length > $t ? `${r.slice(0, $t).join("")}…` : n;
	return /^ +$/.test(i) ? i.replaceAll(" ", "␣") : i;
}
function en(e, t) {
	return `“${W(e, t).trim()}”`;
}
function tn(e, t) {
	if (!t) return [];
	let n = [], r = "";
	for (let t of e) n.push(r.length), r += (t ?? "").toLowerCase();
	let i = [], a = 0;
	for (let e = r.indexOf(t.toLowerCase()); e >= 0; e = r.indexOf(t.toLowerCase(), e + 1)) {
		for (; a + 1 < n.length && n[a + 1] <= e;) a++;
		i[i.length - 1] !== a && i.push(a);
	}
	return i;
}
// src/compare/ComparisonView.tsx
var nn = 10;
function rn(e) {
	let { comparison: t, traces: n } = e;
	return /* @__PURE__ */ R("div", {
		class: "comparison",
		children: [
			/* @__PURE__ */ R("h3", { children: "A against B" }),
			/* @__PURE__ */ R("p", {
				class: "sentence",
				children: t.facts.sentence
			}),
			/* @__PURE__ */ R("div", {
				class: "comparison-parts",
				children: [/* @__PURE__ */ R("div", { children: [/* @__PURE__ */ R("p", { children: [/* @__PURE__ */ R("b", { children: "Layer by layer." }), " How many of a token’s experts stayed, in the mean."] }), /* @__PURE__ */ R(on, {
					layers: t.facts.layers,
					trace: n[0]
				})] }), /* @__PURE__ */ R(sn, { ...e })]
			})
		]
	});
}
var an = [
	"layer",
	"experts in common",
	"changed",
	"distance of loads"
];
function on({ layers: e, trace: t }) {
	return /* @__PURE__ */ R(Xt, {
		label: "Agreement, layer by layer",
		columns: an,
		children: e.map((e, n) => /* @__PURE__ */ R("tr", { children: [
			/* @__PURE__ */ R("th", {
				scope: "row",
				children: t.layer(n).index
			}),
			/* @__PURE__ */ R("td", { children: H(e.overlap) }),
			/* @__PURE__ */ R("td", { children: H(e.flips) }),
			/* @__PURE__ */ R("td", { children: U(e.js_distance) })
		] }, t.layer(n).index))
	});
}
function sn({ traces: e, comparison: t, selection: n, select: r }) {
	let [i, a] = I(nn), o = e[0];
	return /* @__PURE__ */ R("div", { children: [
		/* @__PURE__ */ R("p", { children: [/* @__PURE__ */ R("b", { children: "Most changed tokens." }), " A bar for each layer, high where few experts are in common."] }),
		/* @__PURE__ */ R("ol", {
			class: "changed",
			children: t.mostChanged.slice(0, i).map((e) => {
				let i = t.tokenOf(e, 0), a = o.layers.map((n, r) => t.overlap(r, e) / n.top_k);
				return /* @__PURE__ */ R("li", { children: /* @__PURE__ */ R("button", {
					type: "button",
					"aria-pressed": n.tokens[0] === i,
					onClick: () => r({ tokens: t.tokens(0, i) }),
					children: [
						/* @__PURE__ */ R("span", {
							class: "chip plain",
							children: /* @__PURE__ */ R("bdi", { children: W(o.text(i), o.ofToken("token_ids", i)) })
						}),
						/* @__PURE__ */ R("span", {
							class: "fine",
							children: ["token ", B(i)]
						}),
						/* @__PURE__ */ R(un, { overlaps: a }),
						H(mt(a) ?? 1),
						" in common"
					]
				}) }, e);
			})
		}),
		i < t.mostChanged.length && /* @__PURE__ */ R("button", {
			type: "button",
			onClick: () => a(i + 40),
			children: "more"
		})
	] });
}
var cn = 120, ln = 18;
function un({ overlaps: e }) {
	let t = cn / e.length;
	return /* @__PURE__ */ R("svg", {
		class: "sparkline",
		width: cn,
		height: ln,
		"aria-hidden": "true",
		children: e.map((e, n) => /* @__PURE__ */ R("rect", {
			x: n * t,
			y: ln * e - 1,
			width: Math.max(1, t - 1),
			height: ln * (1 - e) + 1
		}, n))
	});
}
// src/data/comparison.ts
var dn = class {
	source;
	facts;
	mostChanged;
	pairOfToken;
	numPairs;
	constructor(e) {
		this.source = e, this.facts = e.facts, this.numPairs = e.pairs.shape[0] ?? 0, this.mostChanged = Array.from(e.most_changed.data), this.pairOfToken = [0, 1].map((e) => new Map(Array.from({ length: this.numPairs }, (t, n) => [this.tokenOf(n, e), n])));
	}
	tokenOf(e, t) {
		return this.source.pairs.data[e * 2 + t];
	}
	pairOf(e, t) {
		return this.pairOfToken[e]?.get(t) ?? null;
	}
	tokens(e, t) {
		let n = this.pairOf(e, t);
		return n === null ? e === 0 ? [t, null] : [null, t] : [this.tokenOf(n, 0), this.tokenOf(n, 1)];
	}
	overlap(e, t) {
		return this.source.overlap.data[e * this.numPairs + t];
	}
}, fn = class {
	facts;
	arrays;
	name;
	layers;
	numTokens;
	numChoices;
	scoredRows;
	none;
	constructor(e, t) {
		this.facts = e, this.arrays = t;
		let [, n = 0, r = 0] = t.topk_ids?.shape ?? [];
		this.name = e.name, this.layers = e.layers, this.numTokens = n, this.numChoices = r, this.none = t.topk_ids?.data instanceof Uint8Array ? 255 : 65535, this.scoredRows = new Map(Array.from(t.scored_tokens?.data ?? [], (e, t) => [e, t]));
	}
	layer(e) {
		return this.layers[e];
	}
	numExperts(e) {
		let t = this.layer(e);
		return t.num_experts + t.zero_experts;
	}
	text(e) {
		let t = this.arrays.token_text?.data[e] ?? -1;
		return t < 0 ? null : this.facts.strings[t] ?? null;
	}
	ofToken(e, t) {
		return this.arrays[e]?.data[t] ?? null;
	}
	ofLayer(e, t, n) {
		let r = this.arrays[e]?.data[t * this.numTokens + n];
		return r === void 0 || Number.isNaN(r) ? null : r;
	}
	expertAt(e, t, n) {
		let r = this.arrays.topk_ids?.data[this.slot(e, t, n)] ?? this.none;
		return r === this.none ? -1 : r;
	}
	weightAt(e, t, n) {
		return this.arrays.topk_weights?.data[this.slot(e, t, n)] ?? null;
	}
	isDropped(e, t, n) {
		let r = this.arrays.dropped;
		if (!r) return !1;
		let i = r.shape[2];
		return (r.data[(e * this.numTokens + t) * i + (n >> 3)] >> (n & 7) & 1) == 1;
	}
	choices(e, t) {
		let n = [];
		for (let r = 0; r < this.numChoices; r++) {
			let i = this.expertAt(e, t, r);
			if (i < 0) continue;
			let a = this.arrays.contribution_norms?.data[this.slot(e, t, r)] ?? null;
			n.push({
				expert: i,
				weight: this.weightAt(e, t, r),
				isDropped: this.isDropped(e, t, r),
				norm: a === null || Number.isNaN(a) ? null : a
			});
		}
		return n;
	}
	slot(e, t, n) {
		return (e * this.numTokens + t) * this.numChoices + n;
	}
	scores(e, t) {
		let n = this.arrays.router_scores, r = this.scoredRows.get(t);
		if (!n || r === void 0) return null;
		let [, i = 0, a = 0] = n.shape, o = (e * i + r) * a, s = this.arrays.select_scores ?? n;
		return Array.from({ length: this.numExperts(e) }, (e, t) => ({
			expert: t,
			raw: n.data[o + t],
			ranked: s.data[o + t]
		})).sort((e, t) => e.ranked === t.ranked ? e.expert - t.expert : t.ranked > e.ranked ? 1 : -1);
	}
	scoredTokens() {
		return this.arrays.scored_tokens?.data ?? [];
	}
	counts(e) {
		return pn(this.arrays.counts, e).slice(0, this.numExperts(e));
	}
	loads(e) {
		let t = this.counts(e), n = t.reduce((e, t) => e + t, 0) / t.length;
		return t.map((e) => n ? e / n : 0);
	}
	passRatios(e) {
		return pn(this.arrays.pass_ratio, e).filter(Number.isFinite);
	}
	sequence(e) {
		let t = this.arrays.seq_offsets?.data ?? [0, this.numTokens];
		for (let n = 1; n < t.length; n++) if (e < t[n]) return [t[n - 1], t[n]];
		return [0, this.numTokens];
	}
	pass(e, t) {
		let n = this.ofToken("forward_id", t), [r, i] = this.sequence(t), a = [];
		for (let e = n === null ? r : 0; e < (n === null ? i : this.numTokens); e++) (n === null || this.ofToken("forward_id", e) === n) && a.push(e);
		let o = Array.from({ length: this.numExperts(e) }, () => []);
		for (let t of a) for (let n = 0; n < this.numChoices; n++) {
			let r = this.expertAt(e, t, n);
			r >= 0 && !this.isDropped(e, t, n) && o[r]?.push(t);
		}
		return {
			id: n,
			tokens: a,
			tokensOf: o
		};
	}
};
function pn(e, t) {
	if (!e) return [];
	let n = e.data.length / (e.shape[0] || 1);
	return Array.from(e.data.subarray(t * n, (t + 1) * n));
}
// node_modules/d3-color/dist/d3-color.mjs
function mn(e, t, n) {
	e.prototype = t.prototype = n, n.constructor = e;
}
function hn(e, t) {
	var n = Object.create(e.prototype);
	for (var r in t) n[r] = t[r];
	return n;
}
function G() {}
var gn = .7, _n = 1 / gn, vn = "\\s*([+-]?\\d+)\\s*", yn = "\\s*([+-]?(?:\\d*\\.)?\\d+(?:[eE][+-]?\\d+)?)\\s*", K = "\\s*([+-]?(?:\\d*\\.)?\\d+(?:[eE][+-]?\\d+)?)%\\s*", bn = /^#([0-9a-f]{3,8})$/, xn = RegExp(`^rgb\\(${vn},${vn},${vn}\\)$`), Sn = RegExp(`^rgb\\(${K},${K},${K}\\)$`), Cn = RegExp(`^rgba\\(${vn},${vn},${vn},${yn}\\)$`), wn = RegExp(`^rgba\\(${K},${K},${K},${yn}\\)$`), Tn = RegExp(`^hsl\\(${yn},${K},${K}\\)$`), En = RegExp(`^hsla\\(${yn},${K},${K},${yn}\\)$`), Dn = {
	aliceblue: 15792383,
	antiquewhite: 16444375,
	aqua: 65535,
	aquamarine: 8388564,
	azure: 15794175,
	beige: 16119260,
	bisque: 16770244,
	black: 0,
	blanchedalmond: 16772045,
	blue: 255,
	blueviolet: 9055202,
	brown: 10824234,
	burlywood: 14596231,
	cadetblue: 6266528,
	chartreuse: 8388352,
	chocolate: 13789470,
	coral: 16744272,
	cornflowerblue: 6591981,
	cornsilk: 16775388,
	crimson: 14423100,
	cyan: 65535,
	darkblue: 139,
	darkcyan: 35723,
	darkgoldenrod: 12092939,
	darkgray: 11119017,
	darkgreen: 25600,
	darkgrey: 11119017,
	darkkhaki: 12433259,
	darkmagenta: 9109643,
	darkolivegreen: 5597999,
	darkorange: 16747520,
	darkorchid: 10040012,
	darkred: 9109504,
	darksalmon: 15308410,
	darkseagreen: 9419919,
	darkslateblue: 4734347,
	darkslategray: 3100495,
	darkslategrey: 3100495,
	darkturquoise: 52945,
	darkviolet: 9699539,
	deeppink: 16716947,
	deepskyblue: 49151,
	dimgray: 6908265,
	dimgrey: 6908265,
	dodgerblue: 2003199,
	firebrick: 11674146,
	floralwhite: 16775920,
	forestgreen: 2263842,
	fuchsia: 16711935,
	gainsboro: 14474460,
	ghostwhite: 16316671,
	gold: 16766720,
	goldenrod: 14329120,
	gray: 8421504,
	green: 32768,
	greenyellow: 11403055,
	grey: 8421504,
	honeydew: 15794160,
	hotpink: 16738740,
	indianred: 13458524,
	indigo: 4915330,
	ivory: 16777200,
	khaki: 15787660,
	lavender: 15132410,
	lavenderblush: 16773365,
	lawngreen: 8190976,
	lemonchiffon: 16775885,
	lightblue: 11393254,
	lightcoral: 15761536,
	lightcyan: 14745599,
	lightgoldenrodyellow: 16448210,
	lightgray: 13882323,
	lightgreen: 9498256,
	lightgrey: 13882323,
	lightpink: 16758465,
	lightsalmon: 16752762,
	lightseagreen: 2142890,
	lightskyblue: 8900346,
	lightslategray: 7833753,
	lightslategrey: 7833753,
	lightsteelblue: 11584734,
	lightyellow: 16777184,
	lime: 65280,
	limegreen: 3329330,
	linen: 16445670,
	magenta: 16711935,
	maroon: 8388608,
	mediumaquamarine: 6737322,
	mediumblue: 205,
	mediumorchid: 12211667,
	mediumpurple: 9662683,
	mediumseagreen: 3978097,
	mediumslateblue: 8087790,
	mediumspringgreen: 64154,
	mediumturquoise: 4772300,
	mediumvioletred: 13047173,
	midnightblue: 1644912,
	mintcream: 16121850,
	mistyrose: 16770273,
	moccasin: 16770229,
	navajowhite: 16768685,
	navy: 128,
	oldlace: 16643558,
	olive: 8421376,
	olivedrab: 7048739,
	orange: 16753920,
	orangered: 16729344,
	orchid: 14315734,
	palegoldenrod: 15657130,
	palegreen: 10025880,
	paleturquoise: 11529966,
	palevioletred: 14381203,
	papayawhip: 16773077,
	peachpuff: 16767673,
	peru: 13468991,
	pink: 16761035,
	plum: 14524637,
	powderblue: 11591910,
	purple: 8388736,
	rebeccapurple: 6697881,
	red: 16711680,
	rosybrown: 12357519,
	royalblue: 4286945,
	saddlebrown: 9127187,
	salmon: 16416882,
	sandybrown: 16032864,
	seagreen: 3050327,
	seashell: 16774638,
	sienna: 10506797,
	silver: 12632256,
	skyblue: 8900331,
	slateblue: 6970061,
	slategray: 7372944,
	slategrey: 7372944,
	snow: 16775930,
	springgreen: 65407,
	steelblue: 4620980,
	tan: 13808780,
	teal: 32896,
	thistle: 14204888,
	tomato: 16737095,
	turquoise: 4251856,
	violet: 15631086,
	wheat: 16113331,
	white: 16777215,
	whitesmoke: 16119285,
	yellow: 16776960,
	yellowgreen: 10145074
};
mn(G, Mn, {
	copy(e) {
		return Object.assign(new this.constructor(), this, e);
	},
	displayable() {
		return this.rgb().displayable();
	},
	hex: On,
	formatHex: On,
	formatHex8: kn,
	formatHsl: An,
	formatRgb: jn,
	toString: jn
});
function On() {
	return this.rgb().formatHex();
}
function kn() {
	return this.rgb().formatHex8();
}
function An() {
	return Wn(this).formatHsl();
}
function jn() {
	return this.rgb().formatRgb();
}
function Mn(e) {
	var t, n;
	return e = (e + "").trim().toLowerCase(), (t = bn.exec(e)) ? (n = t[1].length, t = parseInt(t[1], 16), n === 6 ? Nn(t) : n === 3 ? new q(t >> 8 & 15 | t >> 4 & 240, t >> 4 & 15 | t & 240, (t & 15) << 4 | t & 15, 1) : n === 8 ? Pn(t >> 24 & 255, t >> 16 & 255, t >> 8 & 255, (t & 255) / 255) : n === 4 ? Pn(t >> 12 & 15 | t >> 8 & 240, t >> 8 & 15 | t >> 4 & 240, t >> 4 & 15 | t & 240, ((t & 15) << 4 | t & 15) / 255) : null) : (t = xn.exec(e)) ? new q(t[1], t[2], t[3], 1) : (t = Sn.exec(e)) ? new q(t[1] * 255 / 100, t[2] * 255 / 100, t[3] * 255 / 100, 1) : (t = Cn.exec(e)) ? Pn(t[1], t[2], t[3], t[4]) : (t = wn.exec(e)) ? Pn(t[1] * 255 / 100, t[2] * 255 / 100, t[3] * 255 / 100, t[4]) : (t = Tn.exec(e)) ? Un(t[1], t[2] / 100, t[3] / 100, 1) : (t = En.exec(e)) ? Un(t[1], t[2] / 100, t[3] / 100, t[4]) : Dn.hasOwnProperty(e) ? Nn(Dn[e]) : e === "transparent" ? new q(NaN, NaN, NaN, 0) : null;
}
function Nn(e) {
	return new q(e >> 16 & 255, e >> 8 & 255, e & 255, 1);
}
function Pn(e, t, n, r) {
	return r <= 0 && (e = t = n = NaN), new q(e, t, n, r);
}
function Fn(e) {
	return e instanceof G || (e = Mn(e)), e ? (e = e.rgb(), new q(e.r, e.g, e.b, e.opacity)) : new q();
}
function In(e, t, n, r) {
	return arguments.length === 1 ? Fn(e) : new q(e, t, n, r ?? 1);
}
function q(e, t, n, r) {
	this.r = +e, this.g = +t, this.b = +n, this.opacity = +r;
}
mn(q, In, hn(G, {
	brighter(e) {
		return e = e == null ? _n : _n ** +e, new q(this.r * e, this.g * e, this.b * e, this.opacity);
	},
	darker(e) {
		return e = e == null ? gn : gn ** +e, new q(this.r * e, this.g * e, this.b * e, this.opacity);
	},
	rgb() {
		return this;
	},
	clamp() {
		return new q(Vn(this.r), Vn(this.g), Vn(this.b), Bn(this.opacity));
	},
	displayable() {
		return -.5 <= this.r && this.r < 255.5 && -.5 <= this.g && this.g < 255.5 && -.5 <= this.b && this.b < 255.5 && 0 <= this.opacity && this.opacity <= 1;
	},
	hex: Ln,
	formatHex: Ln,
	formatHex8: Rn,
	formatRgb: zn,
	toString: zn
}));
function Ln() {
	return `#${Hn(this.r)}${Hn(this.g)}${Hn(this.b)}`;
}
function Rn() {
	return `#${Hn(this.r)}${Hn(this.g)}${Hn(this.b)}${Hn((isNaN(this.opacity) ? 1 : this.opacity) * 255)}`;
}
function zn() {
	let e = Bn(this.opacity);
	return `${e === 1 ? "rgb(" : "rgba("}${Vn(this.r)}, ${Vn(this.g)}, ${Vn(this.b)}${e === 1 ? ")" : `, ${e})`}`;
}
function Bn(e) {
	return isNaN(e) ? 1 : Math.max(0, Math.min(1, e));
}
function Vn(e) {
	return Math.max(0, Math.min(255, Math.round(e) || 0));
}
function Hn(e) {
	return e = Vn(e), (e < 16 ? "0" : "") + e.toString(16);
}
function Un(e, t, n, r) {
	return r <= 0 ? e = t = n = NaN : n <= 0 || n >= 1 ? e = t = NaN : t <= 0 && (e = NaN), new J(e, t, n, r);
}
function Wn(e) {
	if (e instanceof J) return new J(e.h, e.s, e.l, e.opacity);
	if (e instanceof G || (e = Mn(e)), !e) return new J();
	if (e instanceof J) return e;
	e = e.rgb();
	var t = e.r / 255, n = e.g / 255, r = e.b / 255, i = Math.min(t, n, r), a = Math.max(t, n, r), o = NaN, s = a - i, c = (a + i) / 2;
	return s ? (o = t === a ? (n - r) / s + (n < r) * 6 : n === a ? (r - t) / s + 2 : (t - n) / s + 4, s /= c < .5 ? a + i : 2 - a - i, o *= 60) : s = c > 0 && c < 1 ? 0 : o, new J(o, s, c, e.opacity);
}
function Gn(e, t, n, r) {
	return arguments.length === 1 ? Wn(e) : new J(e, t, n, r ?? 1);
}
function J(e, t, n, r) {
	this.h = +e, this.s = +t, this.l = +n, this.opacity = +r;
}
mn(J, Gn, hn(G, {
	brighter(e) {
		return e = e == null ? _n : _n ** +e, new J(this.h, this.s, this.l * e, this.opacity);
	},
	darker(e) {
		return e = e == null ? gn : gn ** +e, new J(this.h, this.s, this.l * e, this.opacity);
	},
	rgb() {
		var e = this.h % 360 + (this.h < 0) * 360, t = isNaN(e) || isNaN(this.s) ? 0 : this.s, n = this.l, r = n + (n < .5 ? n : 1 - n) * t, i = 2 * n - r;
		return new q(Jn(e >= 240 ? e - 240 : e + 120, i, r), Jn(e, i, r), Jn(e < 120 ? e + 240 : e - 120, i, r), this.opacity);
	},
	clamp() {
		return new J(Kn(this.h), qn(this.s), qn(this.l), Bn(this.opacity));
	},
	displayable() {
		return (0 <= this.s && this.s <= 1 || isNaN(this.s)) && 0 <= this.l && this.l <= 1 && 0 <= this.opacity && this.opacity <= 1;
	},
	formatHsl() {
		let e = Bn(this.opacity);
		return `${e === 1 ? "hsl(" : "hsla("}${Kn(this.h)}, ${qn(this.s) * 100}%, ${qn(this.l) * 100}%${e === 1 ? ")" : `, ${e})`}`;
	}
}));
function Kn(e) {
	return e = (e || 0) % 360, e < 0 ? e + 360 : e;
}
function qn(e) {
	return Math.max(0, Math.min(1, e || 0));
}
function Jn(e, t, n) {
	return (e < 60 ? t + (n - t) * e / 60 : e < 180 ? n : e < 240 ? t + (n - t) * (240 - e) / 60 : t) * 255;
}
var Yn = Math.PI / 180, Xn = 180 / Math.PI, Zn = 18, Qn = .96422, $n = 1, er = .82521, tr = 4 / 29, nr = 6 / 29, rr = 3 * nr * nr, ir = nr * nr * nr;
function ar(e) {
	if (e instanceof Y) return new Y(e.l, e.a, e.b, e.opacity);
	if (e instanceof X) return pr(e);
	e instanceof q || (e = Fn(e));
	var t = ur(e.r), n = ur(e.g), r = ur(e.b), i = sr((.2225045 * t + .7168786 * n + .0606169 * r) / $n), a, o;
	return t === n && n === r ? a = o = i : (a = sr((.4360747 * t + .3850649 * n + .1430804 * r) / Qn), o = sr((.0139322 * t + .0971045 * n + .7141733 * r) / er)), new Y(116 * i - 16, 500 * (a - i), 200 * (i - o), e.opacity);
}
function or(e, t, n, r) {
	return arguments.length === 1 ? ar(e) : new Y(e, t, n, r ?? 1);
}
function Y(e, t, n, r) {
	this.l = +e, this.a = +t, this.b = +n, this.opacity = +r;
}
mn(Y, or, hn(G, {
	brighter(e) {
		return new Y(this.l + Zn * (e ?? 1), this.a, this.b, this.opacity);
	},
	darker(e) {
		return new Y(this.l - Zn * (e ?? 1), this.a, this.b, this.opacity);
	},
	rgb() {
		var e = (this.l + 16) / 116, t = isNaN(this.a) ? e : e + this.a / 500, n = isNaN(this.b) ? e : e - this.b / 200;
		return t = Qn * cr(t), e = $n * cr(e), n = er * cr(n), new q(lr(3.1338561 * t - 1.6168667 * e - .4906146 * n), lr(-.9787684 * t + 1.9161415 * e + .033454 * n), lr(.0719453 * t - .2289914 * e + 1.4052427 * n), this.opacity);
	}
}));
function sr(e) {
	return e > ir ? e ** (1 / 3) : e / rr + tr;
}
function cr(e) {
	return e > nr ? e * e * e : rr * (e - tr);
}
function lr(e) {
	return 255 * (e <= .0031308 ? 12.92 * e : 1.055 * e ** (1 / 2.4) - .055);
}
function ur(e) {
	return (e /= 255) <= .04045 ? e / 12.92 : ((e + .055) / 1.055) ** 2.4;
}
function dr(e) {
	if (e instanceof X) return new X(e.h, e.c, e.l, e.opacity);
	if (e instanceof Y || (e = ar(e)), e.a === 0 && e.b === 0) return new X(NaN, 0 < e.l && e.l < 100 ? 0 : NaN, e.l, e.opacity);
	var t = Math.atan2(e.b, e.a) * Xn;
	return new X(t < 0 ? t + 360 : t, Math.sqrt(e.a * e.a + e.b * e.b), e.l, e.opacity);
}
function fr(e, t, n, r) {
	return arguments.length === 1 ? dr(e) : new X(e, t, n, r ?? 1);
}
function X(e, t, n, r) {
	this.h = +e, this.c = +t, this.l = +n, this.opacity = +r;
}
function pr(e) {
	if (isNaN(e.h)) return new Y(e.l, 0, 0, e.opacity);
	var t = e.h * Yn;
	return new Y(e.l, Math.cos(t) * e.c, Math.sin(t) * e.c, e.opacity);
}
mn(X, fr, hn(G, {
	brighter(e) {
		return new X(this.h, this.c, this.l + Zn * (e ?? 1), this.opacity);
	},
	darker(e) {
		return new X(this.h, this.c, this.l - Zn * (e ?? 1), this.opacity);
	},
	rgb() {
		return pr(this).rgb();
	}
}));
var mr = -.14861, hr = 1.78277, gr = -.29227, _r = -.90649, vr = 1.97294, yr = vr * _r, br = vr * hr, xr = hr * gr - _r * mr;
function Sr(e) {
	if (e instanceof wr) return new wr(e.h, e.s, e.l, e.opacity);
	e instanceof q || (e = Fn(e));
	var t = e.r / 255, n = e.g / 255, r = e.b / 255, i = (xr * r + yr * t - br * n) / (xr + yr - br), a = r - i, o = (vr * (n - i) - gr * a) / _r, s = Math.sqrt(o * o + a * a) / (vr * i * (1 - i)), c = s ? Math.atan2(o, a) * Xn - 120 : NaN;
	return new wr(c < 0 ? c + 360 : c, s, i, e.opacity);
}
function Cr(e, t, n, r) {
	return arguments.length === 1 ? Sr(e) : new wr(e, t, n, r ?? 1);
}
function wr(e, t, n, r) {
	this.h = +e, this.s = +t, this.l = +n, this.opacity = +r;
}
mn(wr, Cr, hn(G, {
	brighter(e) {
		return e = e == null ? _n : _n ** +e, new wr(this.h, this.s, this.l * e, this.opacity);
	},
	darker(e) {
		return e = e == null ? gn : gn ** +e, new wr(this.h, this.s, this.l * e, this.opacity);
	},
	rgb() {
		var e = isNaN(this.h) ? 0 : (this.h + 120) * Yn, t = +this.l, n = isNaN(this.s) ? 0 : this.s * t * (1 - t), r = Math.cos(e), i = Math.sin(e);
		return new q(255 * (t + n * (mr * r + hr * i)), 255 * (t + n * (gr * r + _r * i)), 255 * (t + vr * r * n), this.opacity);
	}
}));
var Tr = (e) => () => e;
function Er(e, t) {
	return function(n) {
		return e + n * t;
	};
}
function Dr(e, t, n) {
	return e **= +n, t = t ** +n - e, n = 1 / n, function(r) {
		return (e + r * t) ** +n;
	};
}
function Or(e, t) {
	var n = t - e;
	return n ? Er(e, n > 180 || n < -180 ? n - 360 * Math.round(n / 360) : n) : Tr(isNaN(e) ? t : e);
}
function kr(e) {
	return (e = +e) == 1 ? Ar : function(t, n) {
		return n - t ? Dr(t, n, e) : Tr(isNaN(t) ? n : t);
	};
}
function Ar(e, t) {
	var n = t - e;
	return n ? Er(e, n) : Tr(isNaN(e) ? t : e);
}
var jr = (function e(t) {
	var n = kr(t);
	function r(e, t) {
		var r = n((e = In(e)).r, (t = In(t)).r), i = n(e.g, t.g), a = n(e.b, t.b), o = Ar(e.opacity, t.opacity);
		return function(t) {
			return e.r = r(t), e.g = i(t), e.b = a(t), e.opacity = o(t), e + "";
		};
	}
	return r.gamma = e, r;
})(1);
function Mr(e, t) {
	t ||= [];
	var n = e ? Math.min(t.length, e.length) : 0, r = t.slice(), i;
	return function(a) {
		for (i = 0; i < n; ++i) r[i] = e[i] * (1 - a) + t[i] * a;
		return r;
	};
}
function Nr(e) {
	return ArrayBuffer.isView(e) && !(e instanceof DataView);
}
function Pr(e, t) {
	for (var n = t ? t.length : 0, r = e ? Math.min(n, e.length) : 0, i = Array(r), a = Array(n), o = 0; o < r; ++o) i[o] = Ur(e[o], t[o]);
	for (; o < n; ++o) a[o] = t[o];
	return function(e) {
		for (o = 0; o < r; ++o) a[o] = i[o](e);
		return a;
	};
}
function Fr(e, t) {
	var n = /* @__PURE__ */ new Date();
	return e = +e, t = +t, function(r) {
		return n.setTime(e * (1 - r) + t * r), n;
	};
}
function Ir(e, t) {
	return e = +e, t = +t, function(n) {
		return e * (1 - n) + t * n;
	};
}
function Lr(e, t) {
	var n = {}, r = {}, i;
	for (i in typeof e == "object" && e || (e = {}), typeof t == "object" && t || (t = {}), t) i in e ? n[i] = Ur(e[i], t[i]) : r[i] = t[i];
	return function(e) {
		for (i in n) r[i] = n[i](e);
		return r;
	};
}
var Rr = /[-+]?(?:\d+\.?\d*|\.?\d+)(?:[eE][-+]?\d+)?/g, zr = new RegExp(Rr.source, "g");
function Br(e) {
	return function() {
		return e;
	};
}
function Vr(e) {
	return function(t) {
		return e(t) + "";
	};
}
function Hr(e, t) {
	var n = Rr.lastIndex = zr.lastIndex = 0, r, i, a, o = -1, s = [], c = [];
	for (e += "", t += ""; (r = Rr.exec(e)) && (i = zr.exec(t));) (a = i.index) > n && (a = t.slice(n, a), s[o] ? s[o] += a : s[++o] = a), (r = r[0]) === (i = i[0]) ? s[o] ? s[o] += i : s[++o] = i : (s[++o] = null, c.push({
		i: o,
		x: Ir(r, i)
	})), n = zr.lastIndex;
	return n < t.length && (a = t.slice(n), s[o] ? s[o] += a : s[++o] = a), s.length < 2 ? c[0] ? Vr(c[0].x) : Br(t) : (t = c.length, function(e) {
		for (var n = 0, r; n < t; ++n) s[(r = c[n]).i] = r.x(e);
		return s.join("");
	});
}
function Ur(e, t) {
	var n = typeof t, r;
	return t == null || n === "boolean" ? Tr(t) : (n === "number" ? Ir : n === "string" ? (r = Mn(t)) ? (t = r, jr) : Hr : t instanceof Mn ? jr : t instanceof Date ? Fr : Nr(t) ? Mr : Array.isArray(t) ? Pr : typeof t.valueOf != "function" && typeof t.toString != "function" || isNaN(t) ? Lr : Ir)(e, t);
}
function Wr(e, t) {
	return e = +e, t = +t, function(n) {
		return Math.round(e * (1 - n) + t * n);
	};
}
var Gr = 1e-12;
function Kr(e) {
	return ((e = Math.exp(e)) + 1 / e) / 2;
}
function qr(e) {
	return ((e = Math.exp(e)) - 1 / e) / 2;
}
function Jr(e) {
	return ((e = Math.exp(2 * e)) - 1) / (e + 1);
}
(function e(t, n, r) {
	function i(e, i) {
		var a = e[0], o = e[1], s = e[2], c = i[0], l = i[1], u = i[2], d = c - a, f = l - o, p = d * d + f * f, m, h;
		if (p < Gr) h = Math.log(u / s) / t, m = function(e) {
			return [
				a + e * d,
				o + e * f,
				s * Math.exp(t * e * h)
			];
		};
		else {
			var g = Math.sqrt(p), _ = (u * u - s * s + r * p) / (2 * s * n * g), v = (u * u - s * s - r * p) / (2 * u * n * g), y = Math.log(Math.sqrt(_ * _ + 1) - _);
			h = (Math.log(Math.sqrt(v * v + 1) - v) - y) / t, m = function(e) {
				var r = e * h, i = Kr(y), c = s / (n * g) * (i * Jr(t * r + y) - qr(y));
				return [
					a + c * d,
					o + c * f,
					s * i / Kr(t * r + y)
				];
			};
		}
		return m.duration = Math.abs(h) * 1e3 * t / Math.SQRT2, m;
	}
	return i.rho = function(t) {
		var n = Math.max(.001, +t), r = n * n;
		return e(n, r, r * r);
	}, i;
})(Math.SQRT2, 2, 4);
function Yr(e) {
	return (function t(n) {
		n = +n;
		function r(t, r) {
			var i = e((t = Cr(t)).h, (r = Cr(r)).h), a = Ar(t.s, r.s), o = Ar(t.l, r.l), s = Ar(t.opacity, r.opacity);
			return function(e) {
				return t.h = i(e), t.s = a(e), t.l = o(e ** +n), t.opacity = s(e), t + "";
			};
		}
		return r.gamma = t, r;
	})(1);
}
Yr(Or), Yr(Ar);
// node_modules/d3-scale/dist/d3-scale.mjs
function Xr(e, t) {
	switch (arguments.length) {
		case 0: break;
		case 1:
			this.range(e);
			break;
		default: this.range(t).domain(e);
	}
	return this;
}
function Zr(e) {
	return function() {
		return e;
	};
}
function Qr(e) {
	return +e;
}
var $r = [0, 1];
function ei(e) {
	return e;
}
function ti(e, t) {
	return (t -= e = +e) ? function(n) {
		return (n - e) / t;
	} : Zr(isNaN(t) ? NaN : .5);
}
function ni(e, t) {
	var n;
	return e > t && (n = e, e = t, t = n), function(n) {
		return Math.max(e, Math.min(t, n));
	};
}
function ri(e, t, n) {
	var r = e[0], i = e[1], a = t[0], o = t[1];
	return i < r ? (r = ti(i, r), a = n(o, a)) : (r = ti(r, i), a = n(a, o)), function(e) {
		return a(r(e));
	};
}
function ii(e, t, n) {
	var r = Math.min(e.length, t.length) - 1, i = Array(r), a = Array(r), o = -1;
	for (e[r] < e[0] && (e = e.slice().reverse(), t = t.slice().reverse()); ++o < r;) i[o] = ti(e[o], e[o + 1]), a[o] = n(t[o], t[o + 1]);
	return function(t) {
		var n = Ye(e, t, 1, r) - 1;
		return a[n](i[n](t));
	};
}
function ai(e, t) {
	return t.domain(e.domain()).range(e.range()).interpolate(e.interpolate()).clamp(e.clamp()).unknown(e.unknown());
}
function oi() {
	var e = $r, t = $r, n = Ur, r, i, a, o = ei, s, c, l;
	function u() {
		var n = Math.min(e.length, t.length);
		return o !== ei && (o = ni(e[0], e[n - 1])), s = n > 2 ? ii : ri, c = l = null, d;
	}
	function d(i) {
		return i == null || isNaN(i = +i) ? a : (c ||= s(e.map(r), t, n))(r(o(i)));
	}
	return d.invert = function(n) {
		return o(i((l ||= s(t, e.map(r), Ir))(n)));
	}, d.domain = function(t) {
		return arguments.length ? (e = Array.from(t, Qr), u()) : e.slice();
	}, d.range = function(e) {
		return arguments.length ? (t = Array.from(e), u()) : t.slice();
	}, d.rangeRound = function(e) {
		return t = Array.from(e), n = Wr, u();
	}, d.clamp = function(e) {
		return arguments.length ? (o = e ? !0 : ei, u()) : o !== ei;
	}, d.interpolate = function(e) {
		return arguments.length ? (n = e, u()) : n;
	}, d.unknown = function(e) {
		return arguments.length ? (a = e, d) : a;
	}, function(e, t) {
		return r = e, i = t, u();
	};
}
function si() {
	return oi()(ei, ei);
}
function ci(e, t, n, r) {
	var i = st(e, t, n), a;
	switch (r = St(r ?? ",f"), r.type) {
		case "s":
			var o = Math.max(Math.abs(e), Math.abs(t));
			return r.precision == null && !isNaN(a = Lt(i, o)) && (r.precision = a), Pt(r, o);
		case "":
		case "e":
		case "g":
		case "p":
		case "r":
			r.precision == null && !isNaN(a = Rt(i, Math.max(Math.abs(e), Math.abs(t)))) && (r.precision = a - (r.type === "e"));
			break;
		case "f":
		case "%": r.precision == null && !isNaN(a = It(i)) && (r.precision = a - (r.type === "%") * 2);
	}
	return z(r);
}
function li(e) {
	var t = e.domain;
	return e.ticks = function(e) {
		var n = t();
		return at(n[0], n[n.length - 1], e ?? 10);
	}, e.tickFormat = function(e, n) {
		var r = t();
		return ci(r[0], r[r.length - 1], e ?? 10, n);
	}, e.nice = function(n) {
		n ??= 10;
		var r = t(), i = 0, a = r.length - 1, o = r[i], s = r[a], c, l, u = 10;
		for (s < o && (l = o, o = s, s = l, l = i, i = a, a = l); u-- > 0;) {
			if (l = ot(o, s, n), l === c) return r[i] = o, r[a] = s, t(r);
			if (l > 0) o = Math.floor(o / l) * l, s = Math.ceil(s / l) * l;
			else if (l < 0) o = Math.ceil(o * l) / l, s = Math.floor(s * l) / l;
			else break;
			c = l;
		}
		return e;
	}, e;
}
function Z() {
	var e = si();
	return e.copy = function() {
		return ai(e, Z());
	}, Xr.apply(e, arguments), li(e);
}
// src/draw/palette.ts
function ui(e, t) {
	let n = Z().domain([
		-2,
		-1,
		0,
		1,
		2
	]).range(e).clamp(!0);
	return (e) => e > 0 ? n(Math.log2(e)) : t;
}
var di = {
	light: {
		ink: "#1c1e22",
		muted: "#5a5f69",
		rule: "#dcd8cf",
		accent: "#a8420a",
		paper: "#fbfaf7",
		dead: "#0d0f13",
		load: ui([
			"#24507f",
			"#7fa3c7",
			"#ece8df",
			"#eea25a",
			"#b3480b"
		], "#0d0f13")
	},
	dark: {
		ink: "#ebe8e1",
		muted: "#a3a7af",
		rule: "#33373e",
		accent: "#ffa24d",
		paper: "#15171b",
		dead: "#000000",
		load: ui([
			"#1d4d86",
			"#35597f",
			"#565a60",
			"#b4773a",
			"#ffb04a"
		], "#000000")
	}
};
// src/draw/theme.ts
function fi(e) {
	let [t, n] = I(() => matchMedia(e).matches);
	return Te(() => {
		let t = matchMedia(e), r = () => n(t.matches);
		return r(), t.addEventListener("change", r), () => t.removeEventListener("change", r);
	}, [e]), t;
}
function pi(e) {
	let t = fi("(prefers-color-scheme: dark)");
	return fi("print") ? "light" : e === "auto" ? t ? "dark" : "light" : e;
}
var mi = M("light");
function hi() {
	return di[ke(mi)];
}
// src/map/orders.ts
function gi(e, t) {
	return e.layers.map((n, r) => {
		let i = e.counts(r), a = i.map((e, t) => t);
		return t ? a.sort((e, t) => i[t] - i[e] || e - t) : a;
	});
}
function _i(e, t, n) {
	let r = e.counts(t)[n] ?? 0, i = e.loads(t)[n] ?? 0, a = r ? `${B(r)} rows, ${V(i)} an even share` : "no rows, never used";
	return `Layer ${e.layer(t).index}, expert ${n}: ${a}.`;
}
// src/experts/facts.ts
function vi(e, t, n) {
	let { arrays: r, facts: i } = e, a = yi(r.top_tokens, t, n), o = yi(r.top_token_counts, t, n), s = yi(r.top_token_lift, t, n), c = yi(r.partner_lift, t, n);
	return {
		expert: n,
		rows: e.counts(t)[n] ?? 0,
		load: e.loads(t)[n] ?? 0,
		tokens: a.map((e, t) => ({
			text: i.strings[e],
			count: o[t] ?? 0,
			lift: s[t] ?? 0
		})).filter(({ text: e, count: t }) => e !== void 0 && t > 0).map(({ text: e, count: t, lift: n }) => ({
			text: W(e ?? null, null),
			count: t,
			lift: n
		})),
		partners: yi(r.partners, t, n).map((e, t) => ({
			expert: e,
			lift: c[t] ?? 0
		})).filter(({ expert: n, lift: r }) => n < e.numExperts(t) && r > 0),
		bins: yi(r.load_bins, t, n).map((n) => n * e.layer(t).num_experts)
	};
}
function yi(e, t, n) {
	if (!e) return [];
	let r = e.shape[2] ?? 1;
	return pn(e, t).slice(n * r, (n + 1) * r);
}
function bi(e, t) {
	let [n] = pn(e.arrays.specialisation, t), [r] = pn(e.arrays.specialisation_baseline, t);
	if (n === void 0 || r === void 0 || Number.isNaN(n)) return null;
	let i = `Which token it is tells ${U(n)} nats about which expert takes it`;
	return n > r ? `${i}; with the tokens shuffled it is ${U(r)}, so only what lies above that is specialisation.` : `${i}, no more than with the tokens shuffled (${U(r)}): no specialisation on single tokens shows.`;
}
// node_modules/d3-path/dist/d3-path.mjs
var xi = Math.PI, Si = 2 * xi, Ci = 1e-6, wi = Si - Ci;
function Ti(e) {
	this._ += e[0];
	for (let t = 1, n = e.length; t < n; ++t) this._ += arguments[t] + e[t];
}
function Ei(e) {
	let t = Math.floor(e);
	if (!(t >= 0)) throw Error(`invalid digits: ${e}`);
	if (t > 15) return Ti;
	let n = 10 ** t;
	return function(e) {
		this._ += e[0];
		for (let t = 1, r = e.length; t < r; ++t) this._ += Math.round(arguments[t] * n) / n + e[t];
	};
}
function Di(e, t, n, r) {
	return e === n && t === r;
}
function Oi(e) {
	let t = Math.floor(e);
	if (!(t <= 15)) return Di;
	let n = 10 ** t, r = function(e) {
		return Math.round(e * n);
	};
	return function(e, t, n, i) {
		return r(e) === r(n) && r(t) === r(i);
	};
}
var ki = class {
	constructor(e) {
		this._x0 = this._y0 = this._x1 = this._y1 = null, this._ = "", this._append = e == null ? Ti : Ei(e), this._equal = e == null ? Di : Oi(e);
	}
	moveTo(e, t) {
		this._append`M${this._x0 = this._x1 = +e},${this._y0 = this._y1 = +t}`;
	}
	closePath() {
		this._x1 !== null && (this._x1 = this._x0, this._y1 = this._y0, this._append`Z`);
	}
	lineTo(e, t) {
		this._append`L${this._x1 = +e},${this._y1 = +t}`;
	}
	quadraticCurveTo(e, t, n, r) {
		this._append`Q${+e},${+t},${this._x1 = +n},${this._y1 = +r}`;
	}
	bezierCurveTo(e, t, n, r, i, a) {
		this._append`C${+e},${+t},${+n},${+r},${this._x1 = +i},${this._y1 = +a}`;
	}
	arcTo(e, t, n, r, i) {
		if (e = +e, t = +t, n = +n, r = +r, i = +i, i < 0) throw Error(`negative radius: ${i}`);
		let a = this._x1, o = this._y1, s = n - e, c = r - t, l = a - e, u = o - t, d = l * l + u * u;
		if (this._x1 === null) this._append`M${this._x1 = e},${this._y1 = t}`;
		else if (d > Ci) {
			if (!(Math.abs(u * s - c * l) > Ci) || !i) this._append`L${this._x1 = e},${this._y1 = t}`;
			else {
				let f = n - a, p = r - o, m = s * s + c * c, h = f * f + p * p, g = Math.sqrt(m), _ = Math.sqrt(d), v = i * Math.tan((xi - Math.acos((m + d - h) / (2 * g * _))) / 2), y = v / _, b = v / g;
				Math.abs(y - 1) > Ci && this._append`L${e + y * l},${t + y * u}`, this._append`A${i},${i},0,0,${+(u * f > l * p)},${this._x1 = e + b * s},${this._y1 = t + b * c}`;
			}
		}
	}
	arc(e, t, n, r, i, a) {
		if (e = +e, t = +t, n = +n, a = !!a, n < 0) throw Error(`negative radius: ${n}`);
		let o = n * Math.cos(r), s = n * Math.sin(r), c = e + o, l = t + s, u = 1 ^ a, d = a ? r - i : i - r;
		if (this._x1 === null ? this._append`M${c},${l}` : (Math.abs(this._x1 - c) > Ci || Math.abs(this._y1 - l) > Ci) && this._append`L${c},${l}`, n) {
			if (d < 0 && (d = d % Si + Si), d > wi) this._append`A${n},${n},0,1,${u},${e - o},${t - s}A${n},${n},0,1,${u},${this._x1 = c},${this._y1 = l}`;
			else if (d > Ci) {
				let a = e + n * Math.cos(i), o = t + n * Math.sin(i);
				if (d >= xi && this._equal(c, l, a, o)) {
					d /= 2;
					let i = r + d;
					this._append`A${n},${n},0,${+(d >= xi)},${u},${e + n * Math.cos(i)},${t + n * Math.sin(i)}`;
				}
				this._append`A${n},${n},0,${+(d >= xi)},${u},${this._x1 = a},${this._y1 = o}`;
			}
		}
	}
	rect(e, t, n, r) {
		this._append`M${this._x0 = this._x1 = +e},${this._y0 = this._y1 = +t}h${n = +n}v${+r}h${-n}Z`;
	}
	toString() {
		return this._;
	}
};
ki.prototype;
// node_modules/d3-shape/dist/d3-shape.mjs
function Q(e) {
	return function() {
		return e;
	};
}
var Ai = Math.cos, ji = Math.sin, Mi = Math.sqrt, Ni = 1e-12, Pi = Math.PI;
Pi / 2;
var Fi = 2 * Pi;
function Ii(e) {
	let t = 3;
	return e.digits = function(n) {
		if (!arguments.length) return t;
		if (n == null) t = null;
		else {
			let e = Math.floor(n);
			if (!(e >= 0)) throw RangeError(`invalid digits: ${n}`);
			t = e;
		}
		return e;
	}, () => new ki(t);
}
Array.prototype.slice;
function Li(e) {
	return typeof e == "object" && "length" in e ? e : Array.from(e);
}
function Ri(e) {
	this._context = e;
}
Ri.prototype = {
	areaStart: function() {
		this._line = 0;
	},
	areaEnd: function() {
		this._line = NaN;
	},
	lineStart: function() {
		this._point = 0;
	},
	lineEnd: function() {
		(this._line || this._line !== 0 && this._point === 1) && this._context.closePath(), this._line = 1 - this._line;
	},
	point: function(e, t) {
		switch (e = +e, t = +t, this._point) {
			case 0:
				this._point = 1, this._line ? this._context.lineTo(e, t) : this._context.moveTo(e, t);
				break;
			case 1: this._point = 2;
			default: this._context.lineTo(e, t);
		}
	}
};
function zi(e) {
	return new Ri(e);
}
function Bi(e) {
	return e[0];
}
function Vi(e) {
	return e[1];
}
function Hi(e, t) {
	var n = Q(!0), r = null, i = zi, a = null, o = Ii(s);
	e = typeof e == "function" ? e : e === void 0 ? Bi : Q(e), t = typeof t == "function" ? t : t === void 0 ? Vi : Q(t);
	function s(s) {
		var c, l = (s = Li(s)).length, u, d = !1, f;
		for (r ?? (a = i(f = o())), c = 0; c <= l; ++c) !(c < l && n(u = s[c], c, s)) === d && ((d = !d) ? a.lineStart() : a.lineEnd()), d && a.point(+e(u, c, s), +t(u, c, s));
		if (f) return a = null, f + "" || null;
	}
	return s.x = function(t) {
		return arguments.length ? (e = typeof t == "function" ? t : Q(+t), s) : e;
	}, s.y = function(e) {
		return arguments.length ? (t = typeof e == "function" ? e : Q(+e), s) : t;
	}, s.defined = function(e) {
		return arguments.length ? (n = typeof e == "function" ? e : Q(!!e), s) : n;
	}, s.curve = function(e) {
		return arguments.length ? (i = e, r != null && (a = i(r)), s) : i;
	}, s.context = function(e) {
		return arguments.length ? (e == null ? r = a = null : a = i(r = e), s) : r;
	}, s;
}
function Ui(e, t, n) {
	var r = null, i = Q(!0), a = null, o = zi, s = null, c = Ii(l);
	e = typeof e == "function" ? e : e === void 0 ? Bi : Q(+e), t = typeof t == "function" ? t : Q(t === void 0 ? 0 : +t), n = typeof n == "function" ? n : n === void 0 ? Vi : Q(+n);
	function l(l) {
		var u, d, f, p = (l = Li(l)).length, m, h = !1, g, _ = Array(p), v = Array(p);
		for (a ?? (s = o(g = c())), u = 0; u <= p; ++u) {
			if (!(u < p && i(m = l[u], u, l)) === h) {
				if (h = !h) d = u, s.areaStart(), s.lineStart();
				else {
					for (s.lineEnd(), s.lineStart(), f = u - 1; f >= d; --f) s.point(_[f], v[f]);
					s.lineEnd(), s.areaEnd();
				}
			}
			h && (_[u] = +e(m, u, l), v[u] = +t(m, u, l), s.point(r ? +r(m, u, l) : _[u], n ? +n(m, u, l) : v[u]));
		}
		if (g) return s = null, g + "" || null;
	}
	function u() {
		return Hi().defined(i).curve(o).context(a);
	}
	return l.x = function(t) {
		return arguments.length ? (e = typeof t == "function" ? t : Q(+t), r = null, l) : e;
	}, l.x0 = function(t) {
		return arguments.length ? (e = typeof t == "function" ? t : Q(+t), l) : e;
	}, l.x1 = function(e) {
		return arguments.length ? (r = e == null ? null : typeof e == "function" ? e : Q(+e), l) : r;
	}, l.y = function(e) {
		return arguments.length ? (t = typeof e == "function" ? e : Q(+e), n = null, l) : t;
	}, l.y0 = function(e) {
		return arguments.length ? (t = typeof e == "function" ? e : Q(+e), l) : t;
	}, l.y1 = function(e) {
		return arguments.length ? (n = e == null ? null : typeof e == "function" ? e : Q(+e), l) : n;
	}, l.lineX0 = l.lineY0 = function() {
		return u().x(e).y(t);
	}, l.lineY1 = function() {
		return u().x(e).y(n);
	}, l.lineX1 = function() {
		return u().x(r).y(t);
	}, l.defined = function(e) {
		return arguments.length ? (i = typeof e == "function" ? e : Q(!!e), l) : i;
	}, l.curve = function(e) {
		return arguments.length ? (o = e, a != null && (s = o(a)), l) : o;
	}, l.context = function(e) {
		return arguments.length ? (e == null ? a = s = null : s = o(a = e), l) : a;
	}, l;
}
Gi(zi);
function Wi(e) {
	this._curve = e;
}
Wi.prototype = {
	areaStart: function() {
		this._curve.areaStart();
	},
	areaEnd: function() {
		this._curve.areaEnd();
	},
	lineStart: function() {
		this._curve.lineStart();
	},
	lineEnd: function() {
		this._curve.lineEnd();
	},
	point: function(e, t) {
		this._curve.point(t * Math.sin(e), t * -Math.cos(e));
	}
};
function Gi(e) {
	function t(t) {
		return new Wi(e(t));
	}
	return t._curve = e, t;
}
Mi(3), Mi(1 / 3) * 2;
var Ki = ji(Pi / 10) / ji(7 * Pi / 10);
ji(Fi / 10) * Ki, -Ai(Fi / 10) * Ki, Mi(3), Mi(3), Mi(3) / 2, (1 / Mi(12) / 2 + 1) * 3;
function qi() {}
function Ji(e, t, n) {
	e._context.bezierCurveTo((2 * e._x0 + e._x1) / 3, (2 * e._y0 + e._y1) / 3, (e._x0 + 2 * e._x1) / 3, (e._y0 + 2 * e._y1) / 3, (e._x0 + 4 * e._x1 + t) / 6, (e._y0 + 4 * e._y1 + n) / 6);
}
function Yi(e) {
	this._context = e;
}
Yi.prototype = {
	areaStart: function() {
		this._line = 0;
	},
	areaEnd: function() {
		this._line = NaN;
	},
	lineStart: function() {
		this._x0 = this._x1 = this._y0 = this._y1 = NaN, this._point = 0;
	},
	lineEnd: function() {
		switch (this._point) {
			case 3: Ji(this, this._x1, this._y1);
			case 2: this._context.lineTo(this._x1, this._y1);
		}
		(this._line || this._line !== 0 && this._point === 1) && this._context.closePath(), this._line = 1 - this._line;
	},
	point: function(e, t) {
		switch (e = +e, t = +t, this._point) {
			case 0:
				this._point = 1, this._line ? this._context.lineTo(e, t) : this._context.moveTo(e, t);
				break;
			case 1:
				this._point = 2;
				break;
			case 2: this._point = 3, this._context.lineTo((5 * this._x0 + this._x1) / 6, (5 * this._y0 + this._y1) / 6);
			default: Ji(this, e, t);
		}
		this._x0 = this._x1, this._x1 = e, this._y0 = this._y1, this._y1 = t;
	}
};
function Xi(e, t) {
	this._basis = new Yi(e), this._beta = t;
}
Xi.prototype = {
	lineStart: function() {
		this._x = [], this._y = [], this._basis.lineStart();
	},
	lineEnd: function() {
		var e = this._x, t = this._y, n = e.length - 1;
		if (n > 0) for (var r = e[0], i = t[0], a = e[n] - r, o = t[n] - i, s = -1, c; ++s <= n;) c = s / n, this._basis.point(this._beta * e[s] + (1 - this._beta) * (r + c * a), this._beta * t[s] + (1 - this._beta) * (i + c * o));
		this._x = this._y = null, this._basis.lineEnd();
	},
	point: function(e, t) {
		this._x.push(+e), this._y.push(+t);
	}
}, (function e(t) {
	function n(e) {
		return t === 1 ? new Yi(e) : new Xi(e, t);
	}
	return n.beta = function(t) {
		return e(+t);
	}, n;
})(.85);
function Zi(e, t, n) {
	e._context.bezierCurveTo(e._x1 + e._k * (e._x2 - e._x0), e._y1 + e._k * (e._y2 - e._y0), e._x2 + e._k * (e._x1 - t), e._y2 + e._k * (e._y1 - n), e._x2, e._y2);
}
function Qi(e, t) {
	this._context = e, this._k = (1 - t) / 6;
}
Qi.prototype = {
	areaStart: function() {
		this._line = 0;
	},
	areaEnd: function() {
		this._line = NaN;
	},
	lineStart: function() {
		this._x0 = this._x1 = this._x2 = this._y0 = this._y1 = this._y2 = NaN, this._point = 0;
	},
	lineEnd: function() {
		switch (this._point) {
			case 2:
				this._context.lineTo(this._x2, this._y2);
				break;
			case 3: Zi(this, this._x1, this._y1);
		}
		(this._line || this._line !== 0 && this._point === 1) && this._context.closePath(), this._line = 1 - this._line;
	},
	point: function(e, t) {
		switch (e = +e, t = +t, this._point) {
			case 0:
				this._point = 1, this._line ? this._context.lineTo(e, t) : this._context.moveTo(e, t);
				break;
			case 1:
				this._point = 2, this._x1 = e, this._y1 = t;
				break;
			case 2: this._point = 3;
			default: Zi(this, e, t);
		}
		this._x0 = this._x1, this._x1 = this._x2, this._x2 = e, this._y0 = this._y1, this._y1 = this._y2, this._y2 = t;
	}
}, (function e(t) {
	function n(e) {
		return new Qi(e, t);
	}
	return n.tension = function(t) {
		return e(+t);
	}, n;
})(0);
function $i(e, t) {
	this._context = e, this._k = (1 - t) / 6;
}
$i.prototype = {
	areaStart: qi,
	areaEnd: qi,
	lineStart: function() {
		this._x0 = this._x1 = this._x2 = this._x3 = this._x4 = this._x5 = this._y0 = this._y1 = this._y2 = this._y3 = this._y4 = this._y5 = NaN, this._point = 0;
	},
	lineEnd: function() {
		switch (this._point) {
			case 1:
				this._context.moveTo(this._x3, this._y3), this._context.closePath();
				break;
			case 2:
				this._context.lineTo(this._x3, this._y3), this._context.closePath();
				break;
			case 3: this.point(this._x3, this._y3), this.point(this._x4, this._y4), this.point(this._x5, this._y5);
		}
	},
	point: function(e, t) {
		switch (e = +e, t = +t, this._point) {
			case 0:
				this._point = 1, this._x3 = e, this._y3 = t;
				break;
			case 1:
				this._point = 2, this._context.moveTo(this._x4 = e, this._y4 = t);
				break;
			case 2:
				this._point = 3, this._x5 = e, this._y5 = t;
				break;
			default: Zi(this, e, t);
		}
		this._x0 = this._x1, this._x1 = this._x2, this._x2 = e, this._y0 = this._y1, this._y1 = this._y2, this._y2 = t;
	}
}, (function e(t) {
	function n(e) {
		return new $i(e, t);
	}
	return n.tension = function(t) {
		return e(+t);
	}, n;
})(0);
function ea(e, t) {
	this._context = e, this._k = (1 - t) / 6;
}
ea.prototype = {
	areaStart: function() {
		this._line = 0;
	},
	areaEnd: function() {
		this._line = NaN;
	},
	lineStart: function() {
		this._x0 = this._x1 = this._x2 = this._y0 = this._y1 = this._y2 = NaN, this._point = 0;
	},
	lineEnd: function() {
		(this._line || this._line !== 0 && this._point === 3) && this._context.closePath(), this._line = 1 - this._line;
	},
	point: function(e, t) {
		switch (e = +e, t = +t, this._point) {
			case 0:
				this._point = 1;
				break;
			case 1:
				this._point = 2;
				break;
			case 2:
				this._point = 3, this._line ? this._context.lineTo(this._x2, this._y2) : this._context.moveTo(this._x2, this._y2);
				break;
			case 3: this._point = 4;
			default: Zi(this, e, t);
		}
		this._x0 = this._x1, this._x1 = this._x2, this._x2 = e, this._y0 = this._y1, this._y1 = this._y2, this._y2 = t;
	}
}, (function e(t) {
	function n(e) {
		return new ea(e, t);
	}
	return n.tension = function(t) {
		return e(+t);
	}, n;
})(0);
function ta(e, t, n) {
	var r = e._x1, i = e._y1, a = e._x2, o = e._y2;
	if (e._l01_a > Ni) {
		var s = 2 * e._l01_2a + 3 * e._l01_a * e._l12_a + e._l12_2a, c = 3 * e._l01_a * (e._l01_a + e._l12_a);
		r = (r * s - e._x0 * e._l12_2a + e._x2 * e._l01_2a) / c, i = (i * s - e._y0 * e._l12_2a + e._y2 * e._l01_2a) / c;
	}
	if (e._l23_a > Ni) {
		var l = 2 * e._l23_2a + 3 * e._l23_a * e._l12_a + e._l12_2a, u = 3 * e._l23_a * (e._l23_a + e._l12_a);
		a = (a * l + e._x1 * e._l23_2a - t * e._l12_2a) / u, o = (o * l + e._y1 * e._l23_2a - n * e._l12_2a) / u;
	}
	e._context.bezierCurveTo(r, i, a, o, e._x2, e._y2);
}
function na(e, t) {
	this._context = e, this._alpha = t;
}
na.prototype = {
	areaStart: function() {
		this._line = 0;
	},
	areaEnd: function() {
		this._line = NaN;
	},
	lineStart: function() {
		this._x0 = this._x1 = this._x2 = this._y0 = this._y1 = this._y2 = NaN, this._l01_a = this._l12_a = this._l23_a = this._l01_2a = this._l12_2a = this._l23_2a = this._point = 0;
	},
	lineEnd: function() {
		switch (this._point) {
			case 2:
				this._context.lineTo(this._x2, this._y2);
				break;
			case 3: this.point(this._x2, this._y2);
		}
		(this._line || this._line !== 0 && this._point === 1) && this._context.closePath(), this._line = 1 - this._line;
	},
	point: function(e, t) {
		if (e = +e, t = +t, this._point) {
			var n = this._x2 - e, r = this._y2 - t;
			this._l23_a = Math.sqrt(this._l23_2a = (n * n + r * r) ** +this._alpha);
		}
		switch (this._point) {
			case 0:
				this._point = 1, this._line ? this._context.lineTo(e, t) : this._context.moveTo(e, t);
				break;
			case 1:
				this._point = 2;
				break;
			case 2: this._point = 3;
			default: ta(this, e, t);
		}
		this._l01_a = this._l12_a, this._l12_a = this._l23_a, this._l01_2a = this._l12_2a, this._l12_2a = this._l23_2a, this._x0 = this._x1, this._x1 = this._x2, this._x2 = e, this._y0 = this._y1, this._y1 = this._y2, this._y2 = t;
	}
}, (function e(t) {
	function n(e) {
		return t ? new na(e, t) : new Qi(e, 0);
	}
	return n.alpha = function(t) {
		return e(+t);
	}, n;
})(.5);
function ra(e, t) {
	this._context = e, this._alpha = t;
}
ra.prototype = {
	areaStart: qi,
	areaEnd: qi,
	lineStart: function() {
		this._x0 = this._x1 = this._x2 = this._x3 = this._x4 = this._x5 = this._y0 = this._y1 = this._y2 = this._y3 = this._y4 = this._y5 = NaN, this._l01_a = this._l12_a = this._l23_a = this._l01_2a = this._l12_2a = this._l23_2a = this._point = 0;
	},
	lineEnd: function() {
		switch (this._point) {
			case 1:
				this._context.moveTo(this._x3, this._y3), this._context.closePath();
				break;
			case 2:
				this._context.lineTo(this._x3, this._y3), this._context.closePath();
				break;
			case 3: this.point(this._x3, this._y3), this.point(this._x4, this._y4), this.point(this._x5, this._y5);
		}
	},
	point: function(e, t) {
		if (e = +e, t = +t, this._point) {
			var n = this._x2 - e, r = this._y2 - t;
			this._l23_a = Math.sqrt(this._l23_2a = (n * n + r * r) ** +this._alpha);
		}
		switch (this._point) {
			case 0:
				this._point = 1, this._x3 = e, this._y3 = t;
				break;
			case 1:
				this._point = 2, this._context.moveTo(this._x4 = e, this._y4 = t);
				break;
			case 2:
				this._point = 3, this._x5 = e, this._y5 = t;
				break;
			default: ta(this, e, t);
		}
		this._l01_a = this._l12_a, this._l12_a = this._l23_a, this._l01_2a = this._l12_2a, this._l12_2a = this._l23_2a, this._x0 = this._x1, this._x1 = this._x2, this._x2 = e, this._y0 = this._y1, this._y1 = this._y2, this._y2 = t;
	}
}, (function e(t) {
	function n(e) {
		return t ? new ra(e, t) : new $i(e, 0);
	}
	return n.alpha = function(t) {
		return e(+t);
	}, n;
})(.5);
function ia(e, t) {
	this._context = e, this._alpha = t;
}
ia.prototype = {
	areaStart: function() {
		this._line = 0;
	},
	areaEnd: function() {
		this._line = NaN;
	},
	lineStart: function() {
		this._x0 = this._x1 = this._x2 = this._y0 = this._y1 = this._y2 = NaN, this._l01_a = this._l12_a = this._l23_a = this._l01_2a = this._l12_2a = this._l23_2a = this._point = 0;
	},
	lineEnd: function() {
		(this._line || this._line !== 0 && this._point === 3) && this._context.closePath(), this._line = 1 - this._line;
	},
	point: function(e, t) {
		if (e = +e, t = +t, this._point) {
			var n = this._x2 - e, r = this._y2 - t;
			this._l23_a = Math.sqrt(this._l23_2a = (n * n + r * r) ** +this._alpha);
		}
		switch (this._point) {
			case 0:
				this._point = 1;
				break;
			case 1:
				this._point = 2;
				break;
			case 2:
				this._point = 3, this._line ? this._context.lineTo(this._x2, this._y2) : this._context.moveTo(this._x2, this._y2);
				break;
			case 3: this._point = 4;
			default: ta(this, e, t);
		}
		this._l01_a = this._l12_a, this._l12_a = this._l23_a, this._l01_2a = this._l12_2a, this._l12_2a = this._l23_2a, this._x0 = this._x1, this._x1 = this._x2, this._x2 = e, this._y0 = this._y1, this._y1 = this._y2, this._y2 = t;
	}
}, (function e(t) {
	function n(e) {
		return t ? new ia(e, t) : new ea(e, 0);
	}
	return n.alpha = function(t) {
		return e(+t);
	}, n;
})(.5);
function aa(e) {
	return e < 0 ? -1 : 1;
}
function oa(e, t, n) {
	var r = e._x1 - e._x0, i = t - e._x1, a = (e._y1 - e._y0) / (r || i < 0 && -0), o = (n - e._y1) / (i || r < 0 && -0), s = (a * i + o * r) / (r + i);
	return (aa(a) + aa(o)) * Math.min(Math.abs(a), Math.abs(o), .5 * Math.abs(s)) || 0;
}
function sa(e, t) {
	var n = e._x1 - e._x0;
	return n ? (3 * (e._y1 - e._y0) / n - t) / 2 : t;
}
function ca(e, t, n) {
	var r = e._x0, i = e._y0, a = e._x1, o = e._y1, s = (a - r) / 3;
	e._context.bezierCurveTo(r + s, i + s * t, a - s, o - s * n, a, o);
}
function la(e) {
	this._context = e;
}
la.prototype = {
	areaStart: function() {
		this._line = 0;
	},
	areaEnd: function() {
		this._line = NaN;
	},
	lineStart: function() {
		this._x0 = this._x1 = this._y0 = this._y1 = this._t0 = NaN, this._point = 0;
	},
	lineEnd: function() {
		switch (this._point) {
			case 2:
				this._context.lineTo(this._x1, this._y1);
				break;
			case 3: ca(this, this._t0, sa(this, this._t0));
		}
		(this._line || this._line !== 0 && this._point === 1) && this._context.closePath(), this._line = 1 - this._line;
	},
	point: function(e, t) {
		var n = NaN;
		if (e = +e, t = +t, e !== this._x1 || t !== this._y1) {
			switch (this._point) {
				case 0:
					this._point = 1, this._line ? this._context.lineTo(e, t) : this._context.moveTo(e, t);
					break;
				case 1:
					this._point = 2;
					break;
				case 2:
					this._point = 3, ca(this, sa(this, n = oa(this, e, t)), n);
					break;
				default: ca(this, this._t0, n = oa(this, e, t));
			}
			this._x0 = this._x1, this._x1 = e, this._y0 = this._y1, this._y1 = t, this._t0 = n;
		}
	}
}, Object.create(la.prototype).point = function(e, t) {
	la.prototype.point.call(this, t, e);
};
function ua(e, t) {
	this._context = e, this._t = t;
}
ua.prototype = {
	areaStart: function() {
		this._line = 0;
	},
	areaEnd: function() {
		this._line = NaN;
	},
	lineStart: function() {
		this._x = this._y = NaN, this._point = 0;
	},
	lineEnd: function() {
		0 < this._t && this._t < 1 && this._point === 2 && this._context.lineTo(this._x, this._y), (this._line || this._line !== 0 && this._point === 1) && this._context.closePath(), this._line >= 0 && (this._t = 1 - this._t, this._line = 1 - this._line);
	},
	point: function(e, t) {
		switch (e = +e, t = +t, this._point) {
			case 0:
				this._point = 1, this._line ? this._context.lineTo(e, t) : this._context.moveTo(e, t);
				break;
			case 1: this._point = 2;
			default: if (this._t <= 0) this._context.lineTo(this._x, t), this._context.lineTo(e, t);
			else {
				var n = this._x * (1 - this._t) + e * this._t;
				this._context.lineTo(n, this._y), this._context.lineTo(n, t);
			}
		}
		this._x = e, this._y = t;
	}
};
function da(e) {
	return new ua(e, 1);
}
// src/experts/Sparkline.tsx
var fa = 90, pa = 22;
function ma({ values: e }) {
	if (e.length < 2) return /* @__PURE__ */ R(b, { children: "–" });
	let t = Z().domain([0, e.length]).range([0, fa]), n = Z().domain([0, dt(e) || 1]).range([21, 1]), r = Ui((e, n) => t(n), 21, (e) => n(e)).curve(da);
	return /* @__PURE__ */ R("svg", {
		class: "sparkline",
		width: fa,
		height: pa,
		role: "img",
		"aria-label": `Load over the trace, between ${V(ft(e) ?? 0)} and ${V(dt(e) ?? 0)} an even share`,
		children: /* @__PURE__ */ R("path", { d: r([...e, e[e.length - 1]]) ?? "" })
	});
}
// src/experts/Experts.tsx
var ha = 12, ga = [
	"expert",
	"load",
	"over the trace",
	"takes most",
	"chosen together with"
];
function _a({ trace: e, selection: t, select: n }) {
	let [r, i] = I(!1), { layer: a, expert: o } = t, s = L(() => gi(e, !0)[a] ?? [], [e, a]), c = s.slice(0, ha), l = r ? s : c.includes(o) || !s.includes(o) ? c : [o, ...c], u = bi(e, a), d = e.layer(a).index;
	return /* @__PURE__ */ R("div", {
		class: "experts",
		children: [
			u && /* @__PURE__ */ R("p", { children: u }),
			/* @__PURE__ */ R(Xt, {
				label: `Experts of layer ${d} of ${e.name}`,
				columns: ga,
				children: l.map((t) => /* @__PURE__ */ R(va, {
					facts: vi(e, a, t),
					isSelected: t === o,
					choose: () => n({
						expert: t,
						quantity: "expert"
					})
				}, t))
			}),
			s.length > c.length && /* @__PURE__ */ R("button", {
				type: "button",
				onClick: () => i(!r),
				children: r ? `the busiest ${ha}` : `all ${B(s.length)} experts`
			})
		]
	});
}
function va({ facts: e, isSelected: t, choose: n }) {
	let { expert: r, rows: i, load: a, tokens: o, partners: s, bins: c } = e;
	return /* @__PURE__ */ R("tr", {
		class: t ? "selected" : void 0,
		children: [
			/* @__PURE__ */ R("th", {
				scope: "row",
				children: /* @__PURE__ */ R("button", {
					type: "button",
					"aria-pressed": t,
					title: "Colour the text by this expert",
					onClick: n,
					children: r
				})
			}),
			/* @__PURE__ */ R("td", { children: [i ? V(a) : "never used", /* @__PURE__ */ R("span", {
				class: "fine",
				children: [
					" ",
					B(i),
					" rows"
				]
			})] }),
			/* @__PURE__ */ R("td", { children: /* @__PURE__ */ R(ma, { values: c }) }),
			/* @__PURE__ */ R("td", {
				class: "tokens",
				children: [o.map(({ text: e, count: t, lift: n }, r) => /* @__PURE__ */ R("span", {
					class: "chip plain",
					title: `${B(t)} rows, ${V(n)} its share of all tokens`,
					children: [/* @__PURE__ */ R("bdi", { children: e }), /* @__PURE__ */ R("sub", { children: Ut(n) })]
				}, r)), o.length === 0 && "–"]
			}),
			/* @__PURE__ */ R("td", { children: [s.map(({ expert: e, lift: t }) => /* @__PURE__ */ R("span", {
				class: "partner",
				children: [e, /* @__PURE__ */ R("sub", { children: Ut(t) })]
			}, e)), s.length === 0 && "–"] })
		]
	});
}
// src/header.tsx
var ya = [
	["verdict", "Verdict"],
	["map", "Map"],
	["text", "Text"],
	["walk", "Walk"],
	["experts", "Experts"],
	["size", "Size"],
	["limits", "Limits"]
];
function ba({ title: e, traces: t, theme: n, setTheme: r, has: i }) {
	let a = ya.filter(([e]) => i[e] ?? !0), o = [...new Set(t.flatMap(({ facts: e }) => [e.note, e.cut].filter((e) => e !== null)))];
	return /* @__PURE__ */ R("header", { children: [
		/* @__PURE__ */ R("div", {
			class: "top",
			children: [/* @__PURE__ */ R("nav", {
				"aria-label": "Parts of this page",
				children: a.map(([e, t]) => /* @__PURE__ */ R("a", {
					href: `#${e}`,
					onClick: xa,
					children: t
				}, e))
			}), /* @__PURE__ */ R("label", {
				class: "theme",
				children: [/* @__PURE__ */ R("span", { children: "Colours" }), /* @__PURE__ */ R("select", {
					"aria-label": "Colours",
					value: n,
					onChange: (e) => r(e.currentTarget.value),
					children: [
						/* @__PURE__ */ R("option", {
							value: "auto",
							children: "as the system"
						}),
						/* @__PURE__ */ R("option", {
							value: "light",
							children: "light"
						}),
						/* @__PURE__ */ R("option", {
							value: "dark",
							children: "dark"
						})
					]
				})]
			})]
		}),
		/* @__PURE__ */ R("h1", { children: e }),
		o.map((e) => /* @__PURE__ */ R("p", {
			class: "note",
			children: e
		}, e))
	] });
}
function xa(e) {
	let t = e.currentTarget.getRootNode();
	e.preventDefault(), t.getElementById(e.currentTarget.hash.slice(1))?.scrollIntoView();
}
// src/draw/canvas.tsx
function Sa() {
	let e = De(null), [t, n] = I(0);
	return Ee(() => {
		let t = e.current;
		if (!t) return;
		let r = new ResizeObserver(() => n(t.clientWidth));
		return n(t.clientWidth), r.observe(t), () => r.disconnect();
	}, []), [e, t];
}
function Ca({ width: e, height: t, draw: n, class: r }) {
	let i = De(null);
	return Te(() => {
		let r = i.current, a = r?.getContext("2d");
		if (!r || !a || e <= 0) return;
		let o = Math.max(2, window.devicePixelRatio || 1);
		r.width = Math.round(e * o), r.height = Math.round(t * o), a.setTransform(o, 0, 0, o, 0, 0), n(a);
	}, [
		e,
		t,
		n
	]), /* @__PURE__ */ R("canvas", {
		ref: i,
		class: r,
		style: {
			width: `${e}px`,
			height: `${t}px`
		},
		"aria-hidden": !0
	});
}
// src/map/draw.ts
var wa = "11px system-ui, sans-serif", Ta = 13;
function Ea(e, t, n, r, i) {
	e.clearRect(0, 0, t.plotRight + 20, t.height), e.font = wa, e.textBaseline = "middle", Oa(e, t, n, i);
	for (let a = 0; a < t.numLayers; a++) ka(e, t, n.loads(a), r[a] ?? [], a, i);
	ja(e, t, n, i);
}
function Da(e, t) {
	return e.top + (t + .5) * e.rowHeight;
}
function Oa(e, t, n, r) {
	let i = Math.ceil(Ta / t.rowHeight);
	e.fillStyle = r.muted, e.textAlign = "right";
	for (let r = 0; r < t.numLayers; r += i) e.fillText(String(n.layer(r).index), t.left - 7, Da(t, r));
	e.textAlign = "left", e.fillText(t.right > 260 ? "layer, and its experts" : "layer", 0, 9);
}
function ka(e, t, n, r, i, a) {
	let o = t.cellWidth(i), s = +(o > 5), c = t.top + i * t.rowHeight;
	r.forEach((r, i) => {
		let l = n[r] ?? 0, u = t.left + i * o;
		e.fillStyle = a.load(l), e.fillRect(u, c, Math.max(.5, o - s), t.rowHeight - 1), l === 0 && o > 7 && Aa(e, u, c, o - s, t.rowHeight - 1, a);
	});
}
function Aa(e, t, n, r, i, a) {
	let o = Math.min(r, i) / 5, [s, c] = [t + r / 2, n + i / 2];
	e.strokeStyle = a.muted, e.lineWidth = 1, e.beginPath(), e.moveTo(s - o, c - o), e.lineTo(s + o, c + o), e.moveTo(s + o, c - o), e.lineTo(s - o, c + o), e.stroke();
}
function ja(e, t, n, r) {
	let i = n.layers.map((e, t) => n.passRatios(t).sort((e, t) => e - t)), a = n.layers.map((e, t) => dt(n.loads(t)) ?? 0), o = Math.max(...a, ...i.map((e) => pt(e, .95) ?? 0), 1.5), s = Z().domain([1, o]).range([t.plotLeft, t.plotRight]).nice(4);
	Ma(e, t, s, r);
	for (let n = 0; n < t.numLayers; n++) {
		let o = Da(t, n), c = i[n] ?? [], l = [.05, .95].map((e) => s(pt(c, e) ?? 1));
		e.strokeStyle = r.muted, e.lineWidth = Math.min(3, t.rowHeight / 4), e.beginPath(), e.moveTo(l[0], o), e.lineTo(l[1], o), e.stroke(), e.fillStyle = r.accent, e.beginPath(), e.arc(s(Math.max(1, a[n])), o, Math.min(4, t.rowHeight / 3), 0, 2 * Math.PI), e.fill();
	}
}
function Ma(e, t, n, r) {
	let i = n.domain()[1];
	for (let a of [1, i]) e.textAlign = a === i ? "end" : "center", e.fillStyle = r.muted, e.fillText(`${a} ×`, a === i ? t.plotRight + 8 : n(a), 9), e.fillStyle = r.rule, e.fillRect(n(a), t.top - 4, 1, t.numLayers * t.rowHeight + 4);
}
// src/map/LoadLegend.tsx
var Na = [
	[0, "none"],
	[.25, "≤ ¼"],
	[.5, "½"],
	[1, "even"],
	[2, "2 ×"],
	[4, "≥ 4 ×"]
];
function Pa() {
	let e = hi();
	return /* @__PURE__ */ R("ul", {
		class: "legend",
		"aria-label": "Load of an expert, as a multiple of an even share",
		children: Na.map(([t, n]) => /* @__PURE__ */ R("li", { children: [/* @__PURE__ */ R("i", { style: { background: e.load(t) } }), n] }, n))
	});
}
// src/map/layout.ts
var Fa = 30, Ia = 22, La = 480;
function Ra(e, t) {
	let n = t.length, r = Math.max(9, Math.min(30, Math.floor(La / Math.max(1, n)))), i = Math.max(31, e - (e < 480 ? 84 : 170));
	return {
		left: Fa,
		top: Ia,
		rowHeight: r,
		height: Ia + n * r + 4,
		right: i,
		plotLeft: i + 18,
		plotRight: Math.max(i + 19, e - 10),
		numLayers: n,
		cellWidth: (e) => (i - Fa) / Math.max(1, t[e] ?? 1),
		numColumns: t
	};
}
function za(e, t, n) {
	let r = Math.floor((n - e.top) / e.rowHeight);
	if (r < 0 || r >= e.numLayers) return null;
	let i = Math.floor((t - e.left) / e.cellWidth(r));
	return i < 0 || i >= (e.numColumns[r] ?? 0) ? null : {
		layer: r,
		column: i
	};
}
function Ba({ layer: e, column: t }, n, r) {
	let i = {
		ArrowLeft: {
			layer: e,
			column: t - 1
		},
		ArrowRight: {
			layer: e,
			column: t + 1
		},
		ArrowUp: {
			layer: e - 1,
			column: t
		},
		ArrowDown: {
			layer: e + 1,
			column: t
		},
		Home: {
			layer: e,
			column: 0
		},
		End: {
			layer: e,
			column: Infinity
		},
		PageUp: {
			layer: 0,
			column: t
		},
		PageDown: {
			layer: Infinity,
			column: t
		}
	}[n];
	if (!i) return null;
	let a = Math.max(0, Math.min(r.length - 1, i.layer));
	return {
		layer: a,
		column: Math.max(0, Math.min((r[a] ?? 1) - 1, i.column))
	};
}
// src/map/LoadMap.tsx
function Va({ trace: e, selection: t, select: n }) {
	let [r, i] = Sa(), [a, o] = I(!1), [s, c] = I(null), l = Ae(), u = hi(), d = L(() => gi(e, a), [e, a]), f = L(() => Ra(i, d.map((e) => e.length)), [i, d]), p = Oe((t) => Ea(t, f, e, d, u), [
		f,
		e,
		d,
		u
	]), m = (e) => d[e.layer]?.[e.column] ?? 0, h = (e) => n({
		layer: e.layer,
		expert: m(e)
	}), g = s ?? {
		layer: t.layer,
		column: Math.max(0, d[t.layer]?.indexOf(t.expert) ?? 0)
	};
	return /* @__PURE__ */ R("div", {
		class: "map",
		children: [
			/* @__PURE__ */ R("div", {
				class: "controls",
				children: [/* @__PURE__ */ R(Pa, {}), /* @__PURE__ */ R("label", { children: [
					/* @__PURE__ */ R("input", {
						type: "checkbox",
						checked: a,
						onChange: (e) => o(e.currentTarget.checked)
					}),
					" ",
					"busiest first"
				] })]
			}),
			/* @__PURE__ */ R("div", {
				ref: r,
				class: "canvas-frame",
				role: "application",
				"aria-roledescription": "heat map",
				"aria-label": `Load of each expert in each layer of ${e.name}. Arrow keys move, Enter chooses.`,
				"aria-describedby": l,
				tabIndex: 0,
				onKeyDown: (e) => {
					if (e.key === "Enter" || e.key === " ") h(g);
					else {
						let t = Ba(g, e.key, d.map((e) => e.length));
						if (!t) return;
						c(t);
					}
					e.preventDefault();
				},
				onPointerMove: (e) => c(za(f, e.offsetX, e.offsetY)),
				onPointerLeave: () => c(null),
				onClick: (e) => {
					let t = za(f, e.offsetX, e.offsetY);
					t && h(t);
				},
				children: [/* @__PURE__ */ R(Ca, {
					width: i,
					height: f.height,
					draw: p
				}), /* @__PURE__ */ R(Ha, {
					layout: f,
					cell: g
				})]
			}),
			/* @__PURE__ */ R("p", {
				class: "fine",
				children: ["At the right, each layer’s busiest expert as a multiple of an even share: the dot over the whole trace", e.arrays.pass_ratio ? ", the bar in nine of ten single passes." : "."]
			}),
			/* @__PURE__ */ R("p", {
				class: "readout",
				id: l,
				"aria-live": "polite",
				children: _i(e, g.layer, m(g))
			})
		]
	});
}
function Ha({ layout: e, cell: t }) {
	let n = e.cellWidth(t.layer);
	return /* @__PURE__ */ R("span", {
		class: "cell-mark",
		style: {
			left: `${e.left + t.column * n - 2}px`,
			top: `${e.top + t.layer * e.rowHeight - 2}px`,
			width: `${Math.max(3, n) + 3}px`,
			height: `${e.rowHeight + 3}px`
		}
	});
}
// src/map/PassDistribution.tsx
var Ua = 92, Wa = 70, Ga = 40;
function Ka({ trace: e, layer: t }) {
	let [n, r] = Sa(), i = L(() => e.passRatios(t).sort((e, t) => e - t), [e, t]);
	if (i.length === 0) return null;
	let a = pt(i, .5) ?? 1, o = pt(i, .95) ?? 1;
	return /* @__PURE__ */ R("figure", {
		class: "passes",
		children: [/* @__PURE__ */ R("figcaption", { children: [
			/* @__PURE__ */ R("b", { children: [
				"Single forward passes, layer ",
				e.layer(t).index,
				"."
			] }),
			" In half of",
			" ",
			Jt(i.length, "pass", "passes"),
			" the busiest expert had ",
			V(a),
			" an even share or more, in one of twenty ",
			V(o),
			" or more. All wait for it."
		] }), /* @__PURE__ */ R("div", {
			ref: n,
			class: "chart",
			children: /* @__PURE__ */ R(qa, {
				ratios: i,
				width: r,
				marks: [["half", a], ["1 in 20", o]]
			})
		})]
	});
}
function qa({ ratios: e, width: t, marks: n }) {
	let r = Math.max(2, dt(e) ?? 2), i = Z().domain([1, r]).nice().range([1, Math.max(2, t - 24)]), [a, o] = i.domain(), s = ut().domain([a, o]).thresholds(i.ticks(Ga))(e), c = Z().domain([0, dt(s, (e) => e.length) ?? 1]).range([0, 50]);
	return /* @__PURE__ */ R("svg", {
		width: t,
		height: Ua,
		viewBox: `0 0 ${t} ${Ua}`,
		"aria-hidden": "true",
		children: [
			s.map((e) => /* @__PURE__ */ R("rect", {
				class: "column",
				x: i(e.x0 ?? 1),
				y: Wa - c(e.length),
				width: Math.max(1, i(e.x1 ?? 1) - i(e.x0 ?? 1) - 1),
				height: c(e.length)
			}, e.x0)),
			/* @__PURE__ */ R("line", {
				class: "axis",
				x1: 0,
				x2: t,
				y1: 70.5,
				y2: 70.5
			}),
			n.map(([e, t], n) => /* @__PURE__ */ R("g", { children: [/* @__PURE__ */ R("line", {
				class: "mark",
				x1: i(t),
				x2: i(t),
				y1: 4,
				y2: Wa
			}), /* @__PURE__ */ R("text", {
				x: i(t) + (n ? 5 : -5),
				y: 12,
				"text-anchor": n ? "start" : "end",
				children: e
			})] }, e)),
			i.ticks(5).map((e) => /* @__PURE__ */ R("text", {
				x: i(e),
				y: 86,
				"text-anchor": e === a ? "start" : "middle",
				children: [e, " ×"]
			}, e))
		]
	});
}
// src/sides.tsx
function Ja({ traces: e, view: t }) {
	return e.length === 1 ? /* @__PURE__ */ R(b, { children: t(e[0], 0) }) : /* @__PURE__ */ R("div", {
		class: "sides",
		children: e.map((e, n) => /* @__PURE__ */ R("div", {
			class: "side",
			"data-side": n,
			children: [/* @__PURE__ */ R("p", {
				class: "side-name",
				children: [
					/* @__PURE__ */ R("b", { children: n === 0 ? "A" : "B" }),
					" ",
					e.name
				]
			}), t(e, n)]
		}, n))
	});
}
// src/size/SizeView.tsx
function Ya({ size: e }) {
	let t = [
		{
			name: "experts that one token does not use",
			count: e.routed_total - e.routed_active,
			kind: "idle"
		},
		{
			name: "experts that one token uses",
			count: e.routed_active,
			kind: "active"
		},
		{
			name: "shared experts",
			count: e.shared,
			kind: "shared"
		},
		{
			name: "all else: attention, embeddings, routers",
			count: e.other,
			kind: "other"
		}
	].filter(({ count: e }) => e > 0);
	return /* @__PURE__ */ R("div", {
		class: "size",
		children: [
			/* @__PURE__ */ R("p", {
				class: "sentence",
				children: e.sentence
			}),
			/* @__PURE__ */ R("figure", { children: [/* @__PURE__ */ R("div", {
				class: "parts",
				role: "img",
				"aria-label": `${H(e.active / e.total)} of the parameters are active`,
				children: t.map(({ name: t, count: n, kind: r }) => /* @__PURE__ */ R("i", {
					"data-kind": r,
					style: { flexGrow: n / e.total }
				}, t))
			}), /* @__PURE__ */ R("ul", {
				class: "legend",
				children: t.map(({ name: t, count: n, kind: r }) => /* @__PURE__ */ R("li", { children: [
					/* @__PURE__ */ R("i", { "data-kind": r }),
					t,
					": ",
					Kt(n),
					" (",
					H(n / e.total),
					")"
				] }, t))
			})] }),
			e.touched.length > 0 && /* @__PURE__ */ R(Xa, { size: e })
		]
	});
}
function Xa({ size: e }) {
	let t = e.touched.reduce((e, [, , t]) => Math.max(e, t), 1);
	return /* @__PURE__ */ R("table", {
		class: "touched",
		children: [
			/* @__PURE__ */ R("caption", { children: [
				"Memory follows the total, reading follows what is touched. Means over this trace, at",
				" ",
				Gt(e.expert_bytes),
				" for one expert of one layer:"
			] }),
			/* @__PURE__ */ R("thead", { children: /* @__PURE__ */ R("tr", { children: [
				/* @__PURE__ */ R("th", {
					scope: "col",
					children: "tokens in a pass"
				}),
				/* @__PURE__ */ R("th", {
					scope: "col",
					children: "experts touched, of all layers"
				}),
				/* @__PURE__ */ R("th", {
					scope: "col",
					children: "bytes read"
				})
			] }) }),
			/* @__PURE__ */ R("tbody", { children: e.touched.map(([e, n, r, i]) => /* @__PURE__ */ R("tr", { children: [
				/* @__PURE__ */ R("th", {
					scope: "row",
					children: e
				}),
				/* @__PURE__ */ R("td", { children: [
					/* @__PURE__ */ R("span", {
						class: "share",
						role: "img",
						"aria-label": H(n / r),
						children: /* @__PURE__ */ R("i", { style: { width: `${100 * n / t}%` } })
					}),
					zt(n),
					" of ",
					B(r)
				] }),
				/* @__PURE__ */ R("td", { children: Gt(i) })
			] }, e)) })
		]
	});
}
// src/start.ts
var Za = 12;
function Qa(e) {
	let t = Array.from(e.scoredTokens()), n = t.length ? t : Array.from({ length: e.numTokens }, (e, t) => t), r = n.length < 9 ? 0 : Math.floor(n.length / 3), i = n.slice(r, n.length - r), a = i.filter((t) => t - e.sequence(t)[0] >= Za), o = a.length ? a : i;
	return o.reduce((t, n) => $a(e, n) > $a(e, t) ? n : t, o[0] ?? 0);
}
function $a(e, t) {
	let n = e.text(t) ?? "";
	return /^ ?\p{L}+$/u.test(n) ? n.length : 0;
}
// src/text/LayerSelect.tsx
function eo({ trace: e, selection: t, select: n }) {
	return /* @__PURE__ */ R("label", { children: [
		"layer",
		" ",
		/* @__PURE__ */ R("select", {
			value: t.layer,
			onChange: (r) => {
				let i = Number(r.currentTarget.value);
				n({
					layer: i,
					expert: Math.min(t.expert, e.numExperts(i) - 1)
				});
			},
			children: e.layers.map((e, t) => /* @__PURE__ */ R("option", {
				value: t,
				children: e.index
			}, e.index))
		})
	] });
}
// src/text/quantities.ts
var to = {
	overlap: "experts in common",
	first: "first expert",
	weight: "weight of the first choice",
	margin: "margin",
	entropy: "entropy of the router",
	dropped: "dropped choices",
	expert: "one expert across layers"
};
function no(e, t) {
	let n = t ? ["overlap", "first"] : ["first"];
	return e.arrays.topk_weights && n.push("weight"), e.arrays.select_margin && n.push("margin"), e.arrays.router_entropy && n.push("entropy"), e.arrays.dropped && n.push("dropped"), [...n, "expert"];
}
function ro(e, t, n) {
	let { name: r, layer: i, expert: a, side: o } = t;
	switch (r) {
		case "overlap": return n ? co(e, n, i, o) : io(e, i);
		case "first": return io(e, i);
		case "weight": return ao(e, r, (t) => e.weightAt(i, t, 0), "weight");
		case "margin": return ao(e, r, (t) => e.ofLayer("select_margin", i, t), "margin");
		case "entropy": return ao(e, r, (t) => e.ofLayer("router_entropy", i, t), "entropy");
		case "dropped": return oo(e, i);
		case "expert": return so(e, a);
	}
}
function io(e, t) {
	let n = (n) => {
		let r = e.expertAt(t, n, 0);
		return r < 0 ? null : r;
	};
	return {
		name: "first",
		isExpert: !0,
		low: "",
		high: "",
		value: n,
		label: (e) => n(e) === null ? "no expert" : `first expert ${n(e)}`
	};
}
function ao(e, t, n, r) {
	let i = Array.from({ length: e.numTokens }, (e, t) => n(t)), [a = 0, o = 0] = Ze(i.filter((e) => e !== null && Number.isFinite(e))), s = o - a;
	return {
		name: t,
		isExpert: !1,
		low: U(a),
		high: U(o),
		value: (e) => {
			let t = i[e] ?? null;
			return t === null ? null : s > 0 ? Math.min(1, Math.max(0, (t - a) / s)) : 0;
		},
		label: (e) => `${r} ${U(i[e] ?? null)}`
	};
}
function oo(e, t) {
	let n = (n) => e.choices(t, n).filter((e) => e.isDropped).length;
	return {
		name: "dropped",
		isExpert: !1,
		low: "none",
		high: "all",
		value: (t) => n(t) / e.numChoices,
		label: (r) => `${n(r)} of ${e.choices(t, r).length} choices dropped`
	};
}
function so(e, t) {
	let n = (n) => e.layers.filter((r, i) => e.choices(i, n).some((e) => e.expert === t)).length, r = Array.from({ length: e.numTokens }, (e, t) => n(t)), i = Math.max(1, ...Ze(r).map((e) => e ?? 0));
	return {
		name: "expert",
		isExpert: !1,
		low: "in no layer",
		high: `in ${i} of ${e.layers.length}`,
		value: (e) => (r[e] ?? 0) / i,
		label: (n) => `expert ${t} in ${r[n]} of ${e.layers.length} layers`
	};
}
function co(e, t, n, r) {
	let i = e.layer(n).top_k, a = (e) => {
		let i = t.pairOf(r, e);
		return i === null ? null : t.overlap(n, i);
	};
	return {
		name: "overlap",
		isExpert: !1,
		low: `all ${i} in common`,
		high: "none",
		value: (e) => {
			let t = a(e);
			return t === null ? null : Math.sqrt(1 - Math.min(1, t / i));
		},
		label: (e) => {
			let t = a(e);
			return t === null ? "no counterpart" : `${t} of ${i} experts in common`;
		}
	};
}
// src/text/TextControls.tsx
function lo({ traces: e, comparison: t, selection: n, select: r }) {
	let i = e[0], a = uo(i, 0, n, t), o = no(i, t).filter((n) => e.every((e) => no(e, t).includes(n)));
	return /* @__PURE__ */ R("div", {
		class: "controls",
		children: [
			/* @__PURE__ */ R("label", { children: [
				"coloured by",
				" ",
				/* @__PURE__ */ R("select", {
					value: n.quantity,
					onChange: (e) => r({ quantity: e.currentTarget.value }),
					children: o.map((e) => /* @__PURE__ */ R("option", {
						value: e,
						children: to[e]
					}, e))
				})
			] }),
			n.quantity === "expert" ? /* @__PURE__ */ R("label", { children: [
				"expert",
				" ",
				/* @__PURE__ */ R("input", {
					type: "number",
					min: 0,
					max: i.numExperts(n.layer) - 1,
					value: n.expert,
					onInput: (e) => {
						let t = e.currentTarget.valueAsNumber;
						t >= 0 && t < i.numExperts(n.layer) && r({ expert: t });
					}
				})
			] }) : /* @__PURE__ */ R(eo, {
				trace: i,
				selection: n,
				select: r
			}),
			/* @__PURE__ */ R(fo, { quantity: a })
		]
	});
}
function uo(e, t, { quantity: n, layer: r, expert: i }, a) {
	return L(() => ro(e, {
		name: n,
		layer: r,
		expert: i,
		side: t
	}, a), [
		e,
		n,
		r,
		i,
		t,
		a
	]);
}
function fo({ quantity: e }) {
	return e.isExpert ? /* @__PURE__ */ R("p", {
		class: "legend-text",
		children: "Small figures are experts; a hue stands for several of them."
	}) : /* @__PURE__ */ R("p", {
		class: "legend-text",
		children: [
			e.low,
			" ",
			/* @__PURE__ */ R("span", {
				class: "ramp",
				"aria-label": "to",
				role: "img"
			}),
			" ",
			e.high
		]
	});
}
// src/text/Chip.tsx
var po = "13px ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace", mo = 6;
function ho(e, t, n) {
	return Math.ceil(t(e)) + 8 + (n ? n * mo + 2 : 0);
}
function go({ trace: e, token: t, id: n, width: r, quantity: i, isSelected: a, isFound: o, onChoose: s }) {
	let c = i.value(t), l = W(e.text(t), e.ofToken("token_ids", t));
	return /* @__PURE__ */ R("span", {
		id: n,
		class: [
			"chip",
			o && "found",
			c === null && "blank"
		].filter(Boolean).join(" "),
		role: "option",
		"aria-selected": a,
		"aria-posinset": t + 1,
		"aria-setsize": e.numTokens,
		"aria-label": `${l}, ${i.label(t)}`,
		title: i.label(t),
		"data-token": t,
		"data-hue": i.isExpert && c !== null ? c % 8 : void 0,
		style: {
			width: `${r}px`,
			"--amount": i.isExpert || c === null ? 0 : c.toFixed(3)
		},
		onClick: () => s(t),
		children: [/* @__PURE__ */ R("bdi", { children: l }), i.isExpert && c !== null && /* @__PURE__ */ R("sub", { children: c })]
	});
}
// src/text/lines.ts
function _o(e, t) {
	let n = [], r = 0, i = 0, a = (e) => {
		e > r && n.push({
			begin: r,
			end: e
		}), r = e, i = 0;
	};
	for (let n = 0; n < e.length; n++) {
		let r = e[n], o = i ? i + t.gap + r : r;
		(t.breaksBefore(n) || o > t.width) && a(n), i = i ? i + t.gap + r : r, t.breaksAfter(n) && a(n + 1);
	}
	return a(e.length), n;
}
function vo(e, t) {
	let n = 0, r = e.length - 1;
	for (; n < r;) {
		let i = n + r + 1 >> 1;
		e[i].begin <= t ? n = i : r = i - 1;
	}
	return n;
}
function yo(e, t, n, r) {
	let i = Math.max(0, Math.floor(e / n) - 6), a = Math.min(r, Math.ceil((e + t) / n) + 6);
	return [Math.min(i, a), a];
}
// src/text/keys.ts
var bo = 10;
function xo(e, t, n) {
	if (e.length === 0) return null;
	let r = vo(e, t), i = e[r], a = e[e.length - 1].end, o = (n) => {
		let a = e[Math.max(0, Math.min(e.length - 1, r + n))];
		return Math.min(a.begin + (t - i.begin), a.end - 1);
	};
	switch (n) {
		case "ArrowLeft": return Math.max(0, t - 1);
		case "ArrowRight": return Math.min(a - 1, t + 1);
		case "ArrowUp": return o(-1);
		case "ArrowDown": return o(1);
		case "PageUp": return o(-10);
		case "PageDown": return o(bo);
		case "Home": return i.begin;
		case "End": return i.end - 1;
		default: return null;
	}
}
// src/text/Search.tsx
function So(e) {
	let [t, n] = I(""), r = L(() => Array.from({ length: e.numTokens }, (t, n) => e.text(n)), [e]), i = L(() => tn(r, t), [r, t]), a = L(() => new Set(i), [i]);
	return {
		wanted: t,
		setWanted: n,
		found: i,
		isFound: (e) => a.has(e)
	};
}
function Co({ search: e, current: t, choose: n }) {
	let { wanted: r, setWanted: i, found: a } = e, o = a.indexOf(t ?? -1), s = (e) => {
		let r = (e > 0 ? a.find((e) => e > (t ?? -1)) : a.findLast((e) => e < (t ?? 0))) ?? a[e > 0 ? 0 : a.length - 1];
		r !== void 0 && n(r);
	}, c = a.length ? `${o < 0 ? "" : `${o + 1} of `}${B(a.length)} found` : "not found";
	return /* @__PURE__ */ R("search", {
		class: "search",
		children: [/* @__PURE__ */ R("label", { children: [
			"find",
			" ",
			/* @__PURE__ */ R("input", {
				type: "search",
				value: r,
				spellcheck: !1,
				onInput: (e) => i(e.currentTarget.value),
				onKeyDown: (e) => {
					e.key === "Enter" && (s(e.shiftKey ? -1 : 1), e.preventDefault());
				}
			})
		] }), r && /* @__PURE__ */ R(b, { children: [
			/* @__PURE__ */ R("button", {
				type: "button",
				onClick: () => s(-1),
				disabled: a.length === 0,
				children: "previous"
			}),
			/* @__PURE__ */ R("button", {
				type: "button",
				onClick: () => s(1),
				disabled: a.length === 0,
				children: "next"
			}),
			/* @__PURE__ */ R("span", {
				"aria-live": "polite",
				children: c
			})
		] })]
	});
}
// src/text/TextView.tsx
var $ = 28, wo = 420, To = 60, Eo = 660;
function Do({ trace: e, side: t, comparison: n, selection: r, select: i }) {
	let [a, o] = Sa(), s = Ae(), c = fi("print"), l = uo(e, t, r, n), u = So(e), d = r.tokens[t] ?? null, f = l.isExpert ? String(e.numExperts(r.layer) - 1).length : 0, p = L(() => Ao(e, f), [e, f]), m = c ? Math.min(o, Eo) : o, h = L(() => jo(e, p, m), [
		e,
		p,
		m
	]), [g, _] = Po(a, h, d), [v, y] = c ? [0, Math.min(To, h.length)] : [g, Math.min(_, h.length)], b = (e) => i({ tokens: n?.tokens(t, e) ?? [e] });
	return /* @__PURE__ */ R("div", {
		class: "text",
		children: [
			/* @__PURE__ */ R(Co, {
				search: u,
				current: d,
				choose: b
			}),
			/* @__PURE__ */ R("div", {
				ref: a,
				class: "text-frame",
				style: { height: c ? "auto" : `${Math.min(wo, h.length * $ + 2)}px` },
				role: "listbox",
				"aria-label": `Tokens of ${e.name}`,
				"aria-activedescendant": d === null ? void 0 : `${s}-${d}`,
				tabIndex: 0,
				onKeyDown: (e) => {
					e.key === "Enter" && Oo(e.currentTarget);
					let t = xo(h, d ?? 0, e.key);
					t !== null && (e.preventDefault(), b(t));
				},
				children: /* @__PURE__ */ R("div", {
					class: "lines",
					role: "none",
					style: { height: `${(c ? y : h.length) * $}px` },
					children: h.slice(v, y).map((t, n) => /* @__PURE__ */ R("div", {
						class: "line",
						role: "none",
						style: { top: `${(v + n) * $}px` },
						children: ko(t).map((t) => /* @__PURE__ */ R(go, {
							id: `${s}-${t}`,
							trace: e,
							token: t,
							width: p[t],
							quantity: l,
							isSelected: t === d,
							isFound: u.isFound(t),
							onChoose: b
						}, t))
					}, t.begin))
				})
			}),
			c && y < h.length && /* @__PURE__ */ R("p", {
				class: "fine",
				children: [
					"Printed as far as line ",
					y,
					" of ",
					h.length,
					"."
				]
			})
		]
	});
}
function Oo(e) {
	e.getRootNode().getElementById("walk")?.focus();
}
function ko({ begin: e, end: t }) {
	return Array.from({ length: t - e }, (t, n) => e + n);
}
function Ao(e, t) {
	let n = document.createElement("canvas").getContext("2d");
	n && (n.font = po);
	let r = /* @__PURE__ */ new Map(), i = (e) => n?.measureText(e).width ?? e.length * 8;
	return Float32Array.from({ length: e.numTokens }, (n, a) => {
		let o = W(e.text(a), e.ofToken("token_ids", a)), s = r.get(o) ?? ho(o, i, t);
		return r.set(o, s), s;
	});
}
function jo(e, t, n) {
	if (n <= 0) return [];
	let r = new Set(e.arrays.seq_offsets?.data ?? []);
	return _o(t, {
		width: n - 16,
		gap: 2,
		breaksBefore: (e) => r.has(e),
		breaksAfter: (t) => Mo(e.text(t)) && !No(e.text(t + 1))
	});
}
function Mo(e) {
	return e?.includes("\n") ?? !1;
}
function No(e) {
	return Mo(e) && e?.trim() === "";
}
function Po(e, t, n) {
	let [r, i] = I(0), a = De(!0);
	return Te(() => {
		let t = e.current;
		if (!t) return;
		let n = () => i(Math.floor(t.scrollTop / $) * $);
		return t.addEventListener("scroll", n, { passive: !0 }), () => t.removeEventListener("scroll", n);
	}, [e]), Te(() => {
		let r = e.current;
		if (!r || n === null || t.length === 0) return;
		let i = vo(t, n) * $;
		i >= r.scrollTop && i + $ <= r.scrollTop + r.clientHeight || (r.scrollTop = Math.max(0, i - (a.current ? 5 : 2) * $)), a.current = !1;
	}, [
		e,
		t,
		n
	]), yo(r, wo, $, t.length);
}
// src/verdict/VerdictView.tsx
function Fo({ trace: e }) {
	let { verdict: t } = e.facts;
	return /* @__PURE__ */ R("div", {
		class: "verdict",
		children: [
			/* @__PURE__ */ R("p", {
				class: "verdict-sentence",
				children: [
					/* @__PURE__ */ R(Lo, { status: t.status }),
					". ",
					t.sentence
				]
			}),
			/* @__PURE__ */ R(Ro, { trace: e }),
			/* @__PURE__ */ R("details", { children: [
				/* @__PURE__ */ R("summary", { children: "Layer by layer" }),
				/* @__PURE__ */ R(Bo, { trace: e }),
				t.rules && /* @__PURE__ */ R("p", {
					class: "fine",
					children: t.rules
				})
			] })
		]
	});
}
var Io = {
	healthy: "●",
	imbalanced: "◐",
	collapsed: "○",
	unknown: "–"
};
function Lo({ status: e }) {
	return /* @__PURE__ */ R("strong", {
		class: "status",
		"data-status": e,
		children: [
			/* @__PURE__ */ R("span", {
				"aria-hidden": "true",
				children: Io[e]
			}),
			" ",
			e
		]
	});
}
function Ro({ trace: e }) {
	let t = e.layers.map((e) => e.skipped_fraction), n = e.layer(0);
	return /* @__PURE__ */ R("dl", {
		class: "figures",
		children: [
			[e.numTokens ? B(e.numTokens) : "none", "tokens on this page"],
			[B(e.layers.length), e.layers.length === 1 ? "routed layer" : "routed layers"],
			[`${n.top_k} of ${B(n.num_experts)}`, "experts run for a token, in a layer"],
			[H(t.reduce((e, t) => e + t, 0) / t.length), "of the experts’ compute is skipped"]
		].map(([e, t]) => /* @__PURE__ */ R("div", { children: [/* @__PURE__ */ R("dt", { children: t }), /* @__PURE__ */ R("dd", { children: e })] }, t))
	});
}
var zo = [
	"layer",
	"verdict",
	"busiest over even",
	"dead",
	"variation",
	"entropy",
	"dropped",
	"margin, median",
	"in words"
];
function Bo({ trace: e }) {
	return /* @__PURE__ */ R(Xt, {
		label: `Layers of ${e.name}`,
		class: "layers",
		columns: zo,
		children: e.layers.map((e) => /* @__PURE__ */ R(Vo, { layer: e }, e.index))
	});
}
function Vo({ layer: e }) {
	let t = (e) => e === null ? "–" : U(e);
	return /* @__PURE__ */ R("tr", { children: [
		/* @__PURE__ */ R("th", {
			scope: "row",
			title: e.path,
			children: e.index
		}),
		/* @__PURE__ */ R("td", { children: /* @__PURE__ */ R(Lo, { status: e.verdict.status }) }),
		/* @__PURE__ */ R("td", { children: e.max_over_mean === null ? "–" : V(e.max_over_mean) }),
		/* @__PURE__ */ R("td", { children: e.dead }),
		/* @__PURE__ */ R("td", { children: t(e.cv) }),
		/* @__PURE__ */ R("td", { children: t(e.normalised_entropy) }),
		/* @__PURE__ */ R("td", { children: e.drop_fraction === null ? "–" : H(e.drop_fraction) }),
		/* @__PURE__ */ R("td", { children: t(e.margin?.[2] ?? null) }),
		/* @__PURE__ */ R("td", {
			class: "words",
			children: e.verdict.sentence
		})
	] });
}
// src/walk/steps.ts
var Ho = [
	"Token in",
	"Router scores",
	"Pick top-k",
	"Experts run",
	"In parallel",
	"Combine"
];
function Uo(e, t, n, r) {
	let { choices: i, ran: a, numExperts: o } = t, s = n.num_experts - a.length;
	switch (e) {
		case 0: return `${r} reaches layer ${n.index} as a list of numbers, and the router sees this token alone.`;
		case 1: return `The router gives each of the ${B(o)} experts a score for this one token.`;
		case 2: return `Only the best ${i.length === 1 ? "one is" : `${i.length} are`} picked; the other ${B(o - i.length)} are out.`;
		case 3: return `Not every expert votes: ${Jt(a.length, "expert runs", "experts run")} for this token, and the other ${B(s)} stay dark and compute nothing.`;
		case 4: return Wo(t);
		default: return Go(t, n);
	}
}
function Wo({ pass: e, rows: t, slowest: n, evenRows: r }) {
	let i = Jt(e.tokens.length, "token"), a = t[n] ?? 0;
	return e.tokens.length === 1 ? "This token ran alone: its experts had one row each, and nothing to share." : `The ${i} that ran together are sorted by expert, and all wait for the fullest: expert ${n}, with ${Jt(a, "row")}, ${V(a / r)} an even share.`;
}
function Go({ ran: e }, t) {
	let n = t.num_shared ? `, the shared ${t.num_shared === 1 ? "expert’s" : "experts’"} added` : "";
	return e.length === 0 ? `No expert ran, so the routed part adds nothing to this token${n}.` : `${e.length === 1 ? "The output of the one expert is" : `The ${e.length} outputs are`} multiplied by ${e.length === 1 ? "its weight" : "their weights"} and summed${n}: one list of numbers leaves the layer.`;
}
function Ko({ margin: e, surerFraction: t, choices: n, firstOut: r }) {
	if (e === null || t === null || !Number.isFinite(e)) return null;
	let i = n[n.length - 1], a = i && r ? `, expert ${i.expert} over expert ${r.expert}` : "";
	return `The last one in beat the first one out by ${U(e)}${a}. ${H(t)} of this layer’s tokens were decided by more.`;
}
function qo({ choices: e }) {
	let t = e.filter((e) => e.isDropped).map((e) => e.expert);
	if (t.length === 0) return null;
	let [n, r] = t.length === 1 ? ["Expert", "was"] : ["Experts", "were"];
	return `${n} ${Yt(t)} ${r} picked but full: this token was dropped there.`;
}
function Jo(e) {
	let { choices: t, sharedNorm: n, outputNorm: r } = e, i = t.map((e) => e.norm);
	if (r === null || i.some((e) => e === null)) return null;
	let a = [...i, ...n === null ? [] : [n]].reduce((e, t) => e + t, 0), o = r <= a * (1 + 2 ** -10) ? "no longer than that, as it must be, and shorter the more the parts point different ways" : "longer than that, so something that was not recorded adds to it";
	return `The parts’ lengths add up to ${U(a)}; the output’s length is ${U(r)}: ${o}.`;
}
var Yo = 2 ** -5;
function Xo({ sumError: e, outputNorm: t }) {
	if (e === null) return t === null ? null : "Only lengths were recorded: they bound the sum, but cannot show that it matches the output.";
	let n = "While this was recorded, the parts themselves were added up: their sum";
	return e === 0 ? `${n} is the output exactly.` : e <= Yo ? `${n} matches the output to one part in ${Kt(1 / e)}.` : `${n} differs from the output by ${Number.isFinite(e) ? `${H(e)} of its length` : "all there is"}, so something that is not shown adds to it or changes it.`;
}
var Zo = {
	none: ": they are the scores, not normalised",
	sum: ": each was divided by the sum of all chosen",
	softmax: ": a softmax over the chosen made them"
};
function Qo({ weightSum: e }, t) {
	return e === null ? null : `The weights add up to ${U(e)}${Zo[t.normalises ?? ""] ?? ""}.`;
}
// src/walk/Combine.tsx
function $o({ trace: e, facts: t }) {
	let n = e.layer(t.layer), r = t.choices.filter((e) => !e.isDropped), i = [
		Qo(t, n),
		Jo(t),
		Xo(t)
	].filter((e) => e !== null), a = r.some((e) => e.norm !== null);
	return /* @__PURE__ */ R(b, { children: [
		/* @__PURE__ */ R(es, { choices: r }),
		/* @__PURE__ */ R("table", {
			class: "scores",
			children: [/* @__PURE__ */ R("thead", { children: /* @__PURE__ */ R("tr", { children: [
				/* @__PURE__ */ R("th", {
					scope: "col",
					children: "part"
				}),
				/* @__PURE__ */ R("th", {
					scope: "col",
					children: "weight"
				}),
				a && /* @__PURE__ */ R("th", {
					scope: "col",
					children: "length of what it adds"
				})
			] }) }), /* @__PURE__ */ R("tbody", { children: [r.map(({ expert: e, weight: t, norm: r }) => /* @__PURE__ */ R("tr", { children: [
				/* @__PURE__ */ R("td", { children: [
					"expert ",
					e,
					e >= n.num_experts && ", hands the token through"
				] }),
				/* @__PURE__ */ R("td", { children: U(t) }),
				a && /* @__PURE__ */ R("td", { children: U(r) })
			] }, e)), n.num_shared > 0 && /* @__PURE__ */ R("tr", { children: [
				/* @__PURE__ */ R("td", { children: n.num_shared === 1 ? "shared expert" : `${n.num_shared} shared experts` }),
				/* @__PURE__ */ R("td", { children: "always" }),
				a && /* @__PURE__ */ R("td", { children: U(t.sharedNorm) })
			] })] })]
		}),
		i.map((e) => /* @__PURE__ */ R("p", { children: e }, e)),
		!a && /* @__PURE__ */ R("p", {
			class: "fine",
			children: "The lengths of the experts’ outputs were not recorded with this trace: what each added is not shown."
		})
	] });
}
function es({ choices: e }) {
	let t = ht(e, (e) => e.weight ?? 0);
	return t <= 0 || e.some((e) => (e.weight ?? -1) < 0) ? null : /* @__PURE__ */ R("div", {
		class: "weights",
		role: "img",
		"aria-label": e.map((e) => `expert ${e.expert}: ${U(e.weight)}`).join(", "),
		children: e.map(({ expert: e, weight: n }) => /* @__PURE__ */ R("span", {
			style: { flexGrow: (n ?? 0) / t },
			children: (n ?? 0) / t > .07 ? e : ""
		}, e))
	});
}
// src/walk/Context.tsx
var ts = 60, ns = 24, rs = [
	"prompt",
	"generated",
	"rejected draft",
	"padding"
];
function is({ trace: e, facts: { token: t } }) {
	let [n, r] = e.sequence(t), [i, a] = [Math.max(n, t - ts), Math.min(r, t + ns + 1)], o = W(e.text(t), e.ofToken("token_ids", t)), s = o.trimStart();
	return /* @__PURE__ */ R(b, { children: [
		/* @__PURE__ */ R("blockquote", {
			class: "context",
			children: [
				i > n && "… ",
				os(e, i, t),
				o.slice(0, o.length - s.length),
				/* @__PURE__ */ R("mark", { children: s }),
				/* @__PURE__ */ R("span", {
					class: "after",
					children: os(e, t + 1, a)
				}),
				a < r && " …"
			]
		}),
		/* @__PURE__ */ R("p", {
			class: "fine",
			children: "The words before it count only as far as attention has already mixed them into those numbers. The pale ones come after it."
		}),
		/* @__PURE__ */ R(as, {
			trace: e,
			token: t
		})
	] });
}
function as({ trace: e, token: t }) {
	return /* @__PURE__ */ R("dl", {
		class: "details",
		children: [
			["token id", e.ofToken("token_ids", t)],
			["position", e.ofToken("position", t)],
			["phase", rs[e.ofToken("phase", t) ?? -1] ?? null],
			["forward pass", e.ofToken("forward_id", t)]
		].filter(([, e]) => e !== null).map(([e, t]) => /* @__PURE__ */ R("div", { children: [/* @__PURE__ */ R("dt", { children: e }), /* @__PURE__ */ R("dd", { children: t })] }, e))
	});
}
function os(e, t, n) {
	let r = "";
	for (let i = t; i < n; i++) {
		let t = e.text(i), n = t !== null && /^[ \n]+$/.test(t);
		r += n ? t : W(t, e.ofToken("token_ids", i));
	}
	return r;
}
// src/walk/facts.ts
function ss(e, t, n) {
	let r = e.layer(t), i = e.choices(t, n), a = i.filter((e) => !e.isDropped && e.expert < r.num_experts), o = e.scores(t, n), s = new Set(i.map((e) => e.expert)), c = o?.find((e) => !s.has(e.expert) && e.ranked > -Infinity) ?? null, l = e.ofLayer("select_margin", t, n), u = e.pass(t, n), d = u.tokensOf.slice(0, r.num_experts).map((e) => e.length), f = i.every((e) => e.weight !== null);
	return {
		layer: t,
		token: n,
		numExperts: e.numExperts(t),
		choices: i,
		ran: a,
		scores: o,
		firstOut: c,
		margin: l,
		surerFraction: l === null ? null : cs(e, t, l),
		skippedFraction: 1 - a.length / r.num_experts,
		pass: u,
		rows: d,
		evenRows: ht(d) / d.length,
		slowest: d.indexOf(Math.max(...d)),
		weightSum: f && i.length ? ht(i, (e) => e.weight ?? 0) : null,
		sharedNorm: e.ofLayer("shared_norms", t, n),
		outputNorm: e.ofLayer("output_norms", t, n),
		sumError: e.ofLayer("sum_error", t, n)
	};
}
function cs(e, t, n) {
	let r = 0, i = 0;
	for (let a = 0; a < e.numTokens; a++) {
		let o = e.ofLayer("select_margin", t, a);
		o !== null && (i++, o > n && r++);
	}
	return r / i;
}
// src/walk/windows.ts
var ls = .3;
function us(e, t) {
	let n = t === 1 ? ds(e) : t === 4 ? fs(e) : null, r = t === 5 ? ps(e) : null, i = new Map(e.choices.map((e) => [e.expert, e])), a = new Set(e.ran.map((e) => e.expert));
	return Array.from({ length: e.numExperts }, (e, o) => {
		let s = i.get(o), c = t > 1 && s !== void 0;
		return t === 0 ? {
			state: "waiting",
			light: 0,
			isChosen: c
		} : n ? {
			state: "glow",
			light: n(o),
			isChosen: c
		} : s ? t === 2 ? {
			state: "lit",
			light: 1,
			isChosen: c
		} : s.isDropped ? {
			state: "dropped",
			light: 0,
			isChosen: c
		} : {
			state: "lit",
			light: r?.(o) ?? (a.has(o) ? 1 : ls),
			isChosen: c
		} : {
			state: t === 2 ? "masked" : "idle",
			light: 0,
			isChosen: c
		};
	});
}
function ds({ scores: e, choices: t }) {
	if (!e) return (e) => +!!t.some((t) => t.expert === e);
	let n = Math.max(...e.map((e) => e.raw)) || 1, r = new Map(e.map((e) => [e.expert, Math.max(0, e.raw / n)]));
	return (e) => r.get(e) ?? 0;
}
function fs({ rows: e }) {
	let t = Math.max(1, ...e);
	return (n) => (e[n] ?? 0) / t;
}
function ps({ choices: e }) {
	let t = new Map(e.map(({ expert: e, weight: t }) => [e, Math.abs(t ?? 1)])), n = Math.max(1e-9, ...t.values());
	return (e) => ls + .7 * (t.get(e) ?? 0) / n;
}
function ms(e, t) {
	let { numExperts: n, choices: r, ran: i } = e;
	switch (t) {
		case 0: return `${n} experts, waiting.`;
		case 1: return e.scores ? "Brighter: a higher score." : "Lit: the chosen ones. The other scores are not on the page.";
		case 2: return `${r.length} picked, ${n - r.length} masked.`;
		case 3: return `${i.length} lit for this token, ${n - i.length} dark.`;
		case 4: return "Brighter: more rows in this pass. Framed: this token’s experts.";
		default: return "Brighter: more weight in the sum.";
	}
}
function hs(e) {
	return e <= 16 ? Math.min(4, e) : e <= 64 ? 8 : e <= 256 ? 16 : 24;
}
// src/walk/House.tsx
var gs = 64, _s = .55;
function vs({ facts: e, step: t }) {
	let n = us(e, t), r = hs(n.length), i = ms(e, t);
	return /* @__PURE__ */ R("figure", {
		class: "house",
		children: [/* @__PURE__ */ R("div", {
			class: "windows",
			role: "img",
			"aria-label": i,
			style: {
				gridTemplateColumns: `repeat(${r}, 1fr)`,
				fontSize: `${r <= 4 ? 16 : r <= 8 ? 12 : 10}px`
			},
			children: n.map(({ state: e, light: t, isChosen: r }, i) => /* @__PURE__ */ R("span", {
				"data-expert": i,
				"data-state": e,
				"data-chosen": r || void 0,
				"data-bright": t > _s || void 0,
				title: `expert ${i}`,
				style: { "--light": t.toFixed(3) },
				children: n.length <= gs || r ? i : ""
			}, i))
		}), /* @__PURE__ */ R("figcaption", { children: i })]
	});
}
// src/walk/Parallel.tsx
var ys = 104, bs = 100, xs = 16, Ss = 14;
function Cs({ trace: e, facts: t }) {
	let [n, r] = Sa();
	return /* @__PURE__ */ R(b, { children: [
		/* @__PURE__ */ R("div", {
			ref: n,
			class: "chart",
			children: [/* @__PURE__ */ R(ws, {
				facts: t,
				width: r
			}), /* @__PURE__ */ R("p", {
				class: "fine",
				children: "Rows of each expert, by number. Dashed: an even share. Coloured: this token’s experts."
			})]
		}),
		/* @__PURE__ */ R("dl", {
			class: "together",
			children: t.ran.map(({ expert: n }) => /* @__PURE__ */ R(Ts, {
				trace: e,
				facts: t,
				expert: n
			}, n))
		}),
		t.pass.id === null && /* @__PURE__ */ R("p", {
			class: "fine",
			children: "This trace does not tell forward passes apart: these are the tokens of the sequence."
		}),
		e.facts.cut && /* @__PURE__ */ R("p", {
			class: "fine",
			children: "Only tokens on this page are counted here."
		})
	] });
}
function ws({ facts: e, width: t }) {
	let { rows: n, evenRows: r, slowest: i } = e, a = Z().domain([0, dt(n) || 1]).range([bs, xs]), o = t / n.length, s = new Set(e.ran.map((e) => e.expert)), c = i > n.length / 2;
	return /* @__PURE__ */ R("svg", {
		width: t,
		height: ys,
		viewBox: `0 0 ${t} ${ys}`,
		role: "img",
		"aria-label": "Rows of each expert in this pass",
		children: [
			n.map((e, t) => /* @__PURE__ */ R("rect", {
				class: s.has(t) ? "bar in" : "bar out",
				x: t * o,
				y: a(e),
				width: Math.max(.8, o - (o > 4 ? 2 : .4)),
				height: bs - a(e)
			}, t)),
			/* @__PURE__ */ R("line", {
				class: "axis",
				x1: 0,
				x2: t,
				y1: 100.5,
				y2: 100.5
			}),
			/* @__PURE__ */ R("line", {
				class: "even",
				x1: 0,
				x2: t,
				y1: a(r),
				y2: a(r)
			}),
			/* @__PURE__ */ R("text", {
				x: c ? (i + 1) * o : i * o,
				y: 10,
				"text-anchor": c ? "end" : "start",
				children: [
					"expert ",
					i,
					": ",
					B(n[i] ?? 0),
					" rows"
				]
			})
		]
	});
}
function Ts({ trace: e, facts: t, expert: n }) {
	let r = (t.pass.tokensOf[n] ?? []).filter((e) => e !== t.token), i = r.length - Ss;
	return /* @__PURE__ */ R("div", { children: [/* @__PURE__ */ R("dt", { children: [
		"expert ",
		n,
		", ",
		B(r.length + 1),
		" rows"
	] }), /* @__PURE__ */ R("dd", { children: [
		r.length === 0 && "for this token alone",
		Es(r, t.token).map((t) => /* @__PURE__ */ R("span", {
			class: "chip plain",
			children: /* @__PURE__ */ R("bdi", { children: W(e.text(t), e.ofToken("token_ids", t)) })
		}, t)),
		i > 0 && /* @__PURE__ */ R("span", {
			class: "fine",
			children: [
				" and ",
				B(i),
				" more"
			]
		})
	] })] });
}
function Es(e, t) {
	return [...e].sort((e, n) => Math.abs(e - t) - Math.abs(n - t)).slice(0, Ss).sort((e, t) => e - t);
}
// src/walk/Pick.tsx
function Ds({ facts: e }) {
	let t = Ko(e), n = qo(e);
	return /* @__PURE__ */ R(b, { children: [
		/* @__PURE__ */ R("ol", {
			class: "picks",
			children: e.choices.map(({ expert: e, weight: t, isDropped: n }) => /* @__PURE__ */ R("li", {
				class: n ? "dropped" : void 0,
				children: [
					"expert ",
					/* @__PURE__ */ R("b", { children: e }),
					" ",
					t !== null && /* @__PURE__ */ R("span", { children: ["weight ", U(t)] }),
					" ",
					n && /* @__PURE__ */ R("span", { children: "dropped" })
				]
			}, e))
		}),
		t && /* @__PURE__ */ R("p", { children: t }),
		n && /* @__PURE__ */ R("p", { children: n })
	] });
}
// src/walk/Run.tsx
function Os({ trace: e, facts: t }) {
	let n = e.layer(t.layer), r = n.num_experts - t.ran.length, i = qo(t), a = t.choices.filter((e) => e.expert >= n.num_experts).length;
	return /* @__PURE__ */ R(b, { children: [
		/* @__PURE__ */ R("p", {
			class: "big",
			children: [/* @__PURE__ */ R("b", { children: H(t.skippedFraction) }), " skipped"]
		}),
		/* @__PURE__ */ R("div", {
			class: "share",
			role: "img",
			"aria-label": `${t.ran.length} of ${n.num_experts} experts run`,
			children: /* @__PURE__ */ R("i", { style: { width: `${100 * t.ran.length / n.num_experts}%` } })
		}),
		/* @__PURE__ */ R("p", { children: [
			"Each expert is a small network with parameters of its own. The ",
			B(r),
			" idle ones are not asked, not outvoted and not averaged in: their parameters are not even read for this token."
		] }),
		n.num_shared > 0 && /* @__PURE__ */ R("p", { children: [
			"Besides, ",
			Jt(n.num_shared, "shared expert runs", "shared experts run"),
			" for every token."
		] }),
		a > 0 && /* @__PURE__ */ R("p", { children: [Jt(a, "choice is an expert", "choices are experts"), " without computation."] }),
		i && /* @__PURE__ */ R("p", { children: i })
	] });
}
// src/walk/ScoreChart.tsx
var ks = 150, As = 26, js = 146;
function Ms({ scores: e, numPicked: t, isBiased: n, width: r }) {
	let i = r / e.length, [a = 0, o = 1] = Ze(e.flatMap(({ raw: e, ranked: t }) => Number.isFinite(t) ? [e, t] : [e])), s = Z().domain([Math.min(0, a), Math.max(o, 1e-9)]).range([js, As]), c = Math.max(.8, i - (i > 4 ? 2 : .4)), l = t * i, u = l > r / 2;
	return /* @__PURE__ */ R("svg", {
		width: r,
		height: ks,
		viewBox: `0 0 ${r} ${ks}`,
		role: "img",
		"aria-label": "Scores of all experts, sorted",
		children: [
			e.map(({ expert: e, raw: r, ranked: a }, o) => /* @__PURE__ */ R("g", { children: [/* @__PURE__ */ R("rect", {
				class: o < t ? "bar in" : Number.isFinite(a) ? "bar out" : "bar masked",
				x: o * i,
				y: Math.min(s(r), s(0)),
				width: c,
				height: Math.max(.5, Math.abs(s(0) - s(r)))
			}), n && Number.isFinite(a) && /* @__PURE__ */ R("rect", {
				class: "tick",
				x: o * i,
				y: s(a) - 1,
				width: c,
				height: 2
			})] }, e)),
			/* @__PURE__ */ R("line", {
				class: "axis",
				x1: 0,
				x2: r,
				y1: s(0),
				y2: s(0)
			}),
			/* @__PURE__ */ R("line", {
				class: "mark",
				x1: l - .5,
				x2: l - .5,
				y1: 6,
				y2: 152
			}),
			/* @__PURE__ */ R("text", {
				x: u ? l - 6 : l + 6,
				y: 14,
				"text-anchor": u ? "end" : "start",
				children: u ? `the best ${t} | out` : `the best ${t} are left of this line`
			})
		]
	});
}
// src/walk/Scores.tsx
var Ns = 2;
function Ps({ trace: e, facts: t }) {
	let [n, r] = Sa(), i = e.layer(t.layer), { scores: a, choices: o } = t;
	return /* @__PURE__ */ R(b, { children: [
		/* @__PURE__ */ R("div", {
			ref: n,
			class: "chart",
			children: a && /* @__PURE__ */ R(b, { children: [/* @__PURE__ */ R(Ms, {
				scores: a,
				numPicked: o.length,
				isBiased: i.selects_on_bias,
				width: r
			}), /* @__PURE__ */ R("p", {
				class: "fine",
				children: ["All experts, best first.", i.selects_on_bias && " Bars: the score. Ticks: score and bias, which decide."]
			})] })
		}),
		a ? /* @__PURE__ */ R(Fs, {
			scores: a.slice(0, o.length + Ns),
			facts: t,
			isBiased: i.selects_on_bias
		}) : /* @__PURE__ */ R(Is, { facts: t }),
		i.formula && /* @__PURE__ */ R("p", {
			class: "formula",
			children: i.formula
		})
	] });
}
function Fs({ scores: e, facts: t, isBiased: n }) {
	let r = new Set(t.choices.map((e) => e.expert));
	return /* @__PURE__ */ R("table", {
		class: "scores",
		children: [/* @__PURE__ */ R("thead", { children: /* @__PURE__ */ R("tr", { children: [
			/* @__PURE__ */ R("th", {
				scope: "col",
				children: "rank"
			}),
			/* @__PURE__ */ R("th", {
				scope: "col",
				children: "expert"
			}),
			/* @__PURE__ */ R("th", {
				scope: "col",
				children: "score"
			}),
			n && /* @__PURE__ */ R("th", {
				scope: "col",
				children: "with bias"
			})
		] }) }), /* @__PURE__ */ R("tbody", { children: e.map((e, t) => /* @__PURE__ */ R("tr", {
			class: r.has(e.expert) ? "in" : "out",
			children: [
				/* @__PURE__ */ R("td", { children: t + 1 }),
				/* @__PURE__ */ R("td", { children: e.expert }),
				/* @__PURE__ */ R("td", { children: U(e.raw) }),
				n && /* @__PURE__ */ R("td", { children: U(e.ranked) })
			]
		}, e.expert)) })]
	});
}
function Is({ facts: e }) {
	return /* @__PURE__ */ R("p", { children: [
		"The scores of this token are not on the page: here are its choices.",
		" ",
		e.choices.map((e) => e.expert).join(", "),
		". Traces that are recorded with logits show all."
	] });
}
// src/walk/WalkStep.tsx
var Ls = [
	is,
	Ps,
	Ds,
	Os,
	Cs,
	$o
];
function Rs({ trace: e, layer: t, token: n, step: r, isAnnounced: i }) {
	let a = L(() => ss(e, t, n), [
		e,
		t,
		n
	]), o = Ls[r] ?? is, s = en(e.text(n), e.ofToken("token_ids", n));
	return /* @__PURE__ */ R("div", {
		class: "step",
		"data-step": r,
		children: [/* @__PURE__ */ R("div", {
			class: "step-words",
			children: [/* @__PURE__ */ R("p", {
				class: "sentence",
				"aria-live": i ? "polite" : "off",
				children: Uo(r, a, e.layer(t), s)
			}), /* @__PURE__ */ R(o, {
				trace: e,
				facts: a
			})]
		}), /* @__PURE__ */ R(vs, {
			facts: a,
			step: r
		})]
	});
}
// src/walk/Walk.tsx
function zs({ traces: e, comparison: t, selection: n, select: r }) {
	let { step: i } = n, a = fi("print"), o = a ? Ho.map((e, t) => t) : [i], s = (e) => r({ step: Math.max(0, Math.min(Ho.length - 1, e)) });
	return /* @__PURE__ */ R("section", {
		id: "walk",
		"aria-labelledby": "walk-title",
		tabIndex: -1,
		onKeyDown: (e) => {
			let t = e.key === "ArrowRight" ? 1 : e.key === "ArrowLeft" ? -1 : 0;
			t === 0 || Bs(e.target) || (e.preventDefault(), s(i + t));
		},
		children: [
			/* @__PURE__ */ R("h2", {
				id: "walk-title",
				children: "One token, one layer, six steps"
			}),
			/* @__PURE__ */ R(Vs, {
				traces: e,
				comparison: t,
				selection: n,
				select: r
			}),
			/* @__PURE__ */ R("nav", {
				"aria-label": "Steps",
				children: /* @__PURE__ */ R("ol", {
					class: "steps",
					children: Ho.map((e, t) => /* @__PURE__ */ R("li", { children: /* @__PURE__ */ R("button", {
						type: "button",
						"aria-current": t === i ? "step" : void 0,
						onClick: () => s(t),
						children: [
							/* @__PURE__ */ R("b", { children: t + 1 }),
							" ",
							e
						]
					}) }, e))
				})
			}),
			o.map((t) => /* @__PURE__ */ R(Ja, {
				traces: e,
				view: (e, r) => {
					let i = n.tokens[r] ?? null;
					return i === null ? /* @__PURE__ */ R("p", {
						class: "fine",
						children: "This token has no counterpart in this trace."
					}) : /* @__PURE__ */ R(Rs, {
						trace: e,
						layer: n.layer,
						token: i,
						step: t,
						isAnnounced: r === 0
					});
				}
			}, a ? t : "step")),
			/* @__PURE__ */ R("div", {
				class: "turn",
				children: [
					/* @__PURE__ */ R("button", {
						type: "button",
						onClick: () => s(i - 1),
						disabled: i === 0,
						children: "← back"
					}),
					/* @__PURE__ */ R("span", { children: [
						"step ",
						i + 1,
						" of ",
						Ho.length
					] }),
					/* @__PURE__ */ R("button", {
						type: "button",
						onClick: () => s(i + 1),
						disabled: i === Ho.length - 1,
						children: "next →"
					})
				]
			})
		]
	});
}
function Bs(e) {
	return e instanceof HTMLInputElement || e instanceof HTMLSelectElement;
}
function Vs({ traces: e, comparison: t, selection: n, select: r }) {
	let i = +(n.tokens[0] == null), a = e[i], o = n.tokens[i] ?? 0, s = (e) => r({ tokens: t?.tokens(i, e) ?? [e] }), c = Hs(a.scoredTokens(), o);
	return /* @__PURE__ */ R("div", {
		class: "controls",
		children: [
			/* @__PURE__ */ R("span", {
				class: "picked",
				children: [
					"token ",
					o,
					" ",
					/* @__PURE__ */ R("b", { children: en(a.text(o), a.ofToken("token_ids", o)) })
				]
			}),
			/* @__PURE__ */ R("span", {
				class: "pager",
				children: [/* @__PURE__ */ R("button", {
					type: "button",
					"aria-label": "Previous token",
					disabled: o === 0,
					onClick: () => s(o - 1),
					children: "‹"
				}), /* @__PURE__ */ R("button", {
					type: "button",
					"aria-label": "Next token",
					disabled: o === a.numTokens - 1,
					onClick: () => s(o + 1),
					children: "›"
				})]
			}),
			/* @__PURE__ */ R(eo, {
				trace: a,
				selection: n,
				select: r
			}),
			c !== null && c !== o && /* @__PURE__ */ R("button", {
				type: "button",
				onClick: () => s(c),
				children: "nearest token with all scores"
			})
		]
	});
}
function Hs(e, t) {
	let n = null;
	for (let r of Array.from(e)) (n === null || Math.abs(r - t) < Math.abs(n - t)) && (n = r);
	return n;
}
// src/app.tsx
function Us({ payload: e }) {
	let t = L(() => e.traces.map(({ facts: e, arrays: t }) => new fn(e, t)), [e]), n = L(() => e.comparison ? new dn(e.comparison) : null, [e]), [r, i] = I(() => qs(t, n)), [a, o] = I("auto"), s = Oe((e) => i((t) => ({
		...t,
		...e
	})), []), c = pi(a), l = {
		selection: r,
		select: s,
		comparison: n
	}, u = t.every((e) => e.numTokens > 0), d = t.some((e) => e.facts.size), f = t.some(({ arrays: e }) => e.top_tokens || e.partners || e.load_bins), p = (e) => /* @__PURE__ */ R(Ja, {
		traces: t,
		view: e
	});
	return /* @__PURE__ */ R(mi.Provider, {
		value: c,
		children: /* @__PURE__ */ R("div", {
			class: "page",
			"data-theme": a,
			children: [
				/* @__PURE__ */ R(ba, {
					title: e.title,
					traces: t,
					theme: a,
					setTheme: o,
					has: {
						text: u,
						walk: u,
						experts: f,
						size: d
					}
				}),
				/* @__PURE__ */ R("main", { children: [
					/* @__PURE__ */ R(Js, {
						id: "verdict",
						title: "Verdict",
						children: [p((e) => /* @__PURE__ */ R(Fo, { trace: e })), n && /* @__PURE__ */ R(rn, {
							traces: t,
							...l,
							comparison: n
						})]
					}),
					/* @__PURE__ */ R(Js, {
						id: "map",
						title: "The whole: every layer, every expert",
						lead: Ws,
						children: p((e) => /* @__PURE__ */ R(b, { children: [/* @__PURE__ */ R(Va, {
							trace: e,
							...l
						}), /* @__PURE__ */ R(Ka, {
							trace: e,
							layer: r.layer
						})] }))
					}),
					u && /* @__PURE__ */ R(b, { children: [/* @__PURE__ */ R(Js, {
						id: "text",
						title: "The text, token by token",
						lead: Gs,
						children: [/* @__PURE__ */ R(lo, {
							traces: t,
							...l
						}), p((e, t) => /* @__PURE__ */ R(Do, {
							trace: e,
							side: t,
							...l
						}))]
					}), /* @__PURE__ */ R(zs, {
						traces: t,
						...l
					})] }),
					f && /* @__PURE__ */ R(Js, {
						id: "experts",
						title: "The experts of a layer",
						lead: Ks,
						children: [/* @__PURE__ */ R("div", {
							class: "controls",
							children: /* @__PURE__ */ R(eo, {
								trace: t[0],
								...l
							})
						}), p((e) => /* @__PURE__ */ R(_a, {
							trace: e,
							...l
						}))]
					}),
					d && /* @__PURE__ */ R(Js, {
						id: "size",
						title: "Size: what is there, and what runs",
						children: p((e) => e.facts.size && /* @__PURE__ */ R(Ya, { size: e.facts.size }))
					}),
					/* @__PURE__ */ R(Js, {
						id: "limits",
						title: "What this does not show",
						children: /* @__PURE__ */ R(Ve, { traces: t })
					})
				] }),
				/* @__PURE__ */ R("footer", { children: p((e) => /* @__PURE__ */ R(He, { trace: e })) })
			]
		})
	});
}
var Ws = "Each cell is one expert of one layer, coloured by how much work it got. A balanced layer is one pale band.", Gs = "Choose a token here, by pointer or arrow keys, and the walk below follows it through a layer. Enter leads there.", Ks = "An expert is named by nothing but its number. What it takes most says more about it than any label would.";
function qs(e, t) {
	let n = t?.mostChanged[0], r = n === void 0 ? Qa(e[0]) : t?.tokenOf(n, 0) ?? 0, i = Math.floor((e[0]?.layers.length ?? 1) / 2);
	return {
		layer: i,
		tokens: t?.tokens(0, r) ?? [r],
		expert: Math.max(0, e[0]?.expertAt(i, r, 0) ?? 0),
		step: 0,
		quantity: t ? "overlap" : "first"
	};
}
function Js({ id: e, title: t, lead: n, children: r }) {
	return /* @__PURE__ */ R("section", {
		id: e,
		"aria-labelledby": `${e}-title`,
		children: [
			/* @__PURE__ */ R("h2", {
				id: `${e}-title`,
				children: t
			}),
			n && /* @__PURE__ */ R("p", {
				class: "lead",
				children: n
			}),
			r
		]
	});
}
// src/data/payload.ts
var Ys = /* @__PURE__ */ "topk_ids.topk_weights.select_margin.router_entropy.dropped.token_text.token_ids.position.phase.forward_id.seq_offsets.counts.scored_tokens.router_logits.router_scores.select_scores.select_bias.contribution_norms.shared_norms.output_norms.sum_error.pass_ids.pass_ratio.top_tokens.top_token_counts.top_token_lift.specialisation.specialisation_baseline.partners.partner_lift.load_bins".split("."), Xs = 1;
async function Zs(e) {
	let t = new Blob([e]).stream().pipeThrough(new DecompressionStream("deflate"));
	return new Response(t).arrayBuffer();
}
function Qs(e) {
	let t = new DataView(e).getUint32(0, !0), n = JSON.parse(new TextDecoder().decode(new Uint8Array(e, 4, t)));
	if (n.page !== Xs) throw Error(`page (=${n.page}) must be ${Xs}; write the page again with one version of Headgate`);
	let r = (t) => ec(e, t), i = n.comparison;
	return {
		title: n.title,
		traces: n.traces.map((t) => ({
			facts: t,
			arrays: $s(e, t.arrays)
		})),
		comparison: i ? {
			facts: i,
			pairs: r(i.pairs),
			overlap: r(i.overlap),
			most_changed: r(i.most_changed)
		} : null
	};
}
function $s(e, t) {
	let n = {};
	for (let r of Ys) {
		let i = t[r];
		i && (n[r] = ec(e, i));
	}
	return n;
}
function ec(e, { dtype: t, shape: n, offset: r }) {
	let i = n.reduce((e, t) => e * t, 1);
	switch (t) {
		case "u8": return {
			data: new Uint8Array(e, r, i),
			shape: n
		};
		case "u16": return {
			data: new Uint16Array(e, r, i),
			shape: n
		};
		case "u32": return {
			data: new Uint32Array(e, r, i),
			shape: n
		};
		case "i32": return {
			data: new Int32Array(e, r, i),
			shape: n
		};
		case "f16": return {
			data: nc(new Uint16Array(e, r, i)),
			shape: n
		};
		case "f32": return {
			data: new Float32Array(e, r, i),
			shape: n
		};
		case "f64": return {
			data: new Float64Array(e, r, i),
			shape: n
		};
		default: throw Error(`dtype (=${t}) is unknown; write the page again with one version of Headgate`);
	}
}
var tc;
function nc(e) {
	tc ??= Float32Array.from({ length: 65536 }, (e, t) => rc(t));
	let t = tc, n = new Float32Array(e.length);
	for (let r = 0; r < e.length; r++) n[r] = t[e[r]];
	return n;
}
function rc(e) {
	let t = e & 32768 ? -1 : 1, n = e >> 10 & 31, r = e & 1023;
	return n === 31 ? r ? NaN : t * Infinity : n === 0 ? t * r * 2 ** -24 : t * (1 + r / 1024) * 2 ** (n - 15);
}
// src/styles/page.css?inline
var ic = ":root,:host{--ink:light-dark(#1c1e22,#ebe8e1);--muted:light-dark(#5a5f69,#a3a7af);--rule:light-dark(#dcd8cf,#33373e);--paper:light-dark(#fbfaf7,#15171b);--raised:light-dark(#f2efe8,#1e2126);--accent:light-dark(#a8420a,#ffa24d);--tint:light-dark(#f0a15c,#b5651f);--night:#14171d;--lit:#ffb02e;--serif:\"Iowan Old Style\", \"Palatino Linotype\", Palatino, \"Book Antiqua\", Georgia, \"DejaVu Serif\", serif;--sans:system-ui, -apple-system, \"Segoe UI\", Roboto, \"Helvetica Neue\", \"DejaVu Sans\", sans-serif;--mono:ui-monospace, Menlo, Consolas, \"DejaVu Sans Mono\", monospace;color-scheme:light dark}body{background:var(--paper);margin:0}.page{color:var(--ink);background:var(--paper);font:15px / 1.5 var(--sans);font-variant-numeric:tabular-nums;overflow-wrap:break-word;-moz-text-size-adjust:100%;text-size-adjust:100%;max-width:1180px;margin:0 auto;padding:0 32px 64px}.page[data-theme=light]{color-scheme:light}.page[data-theme=dark]{color-scheme:dark}body:has(.page[data-theme=light]){color-scheme:light}body:has(.page[data-theme=dark]){color-scheme:dark}*,:before,:after{box-sizing:border-box}h1,h2,h3,.sentence,.verdict-sentence{font-family:var(--serif);text-wrap:balance;font-weight:600;line-height:1.2}h1{letter-spacing:-.01em;margin:40px 0 12px;font-size:38px}h2{margin:0 0 6px;font-size:26px}h3{margin:0 0 8px;font-size:18px}p{max-width:68ch;margin:0 0 12px}main>section{border-top:1px solid var(--rule);margin-top:56px;padding-top:22px;scroll-margin-top:44px}main>section:focus{outline:none}:focus-visible{outline:2px solid var(--accent);outline-offset:2px}.lead,.note{color:var(--muted);margin-bottom:20px}.note{margin-bottom:4px}.fine{color:var(--muted);font-size:13px}.reading{max-width:50ch;margin:20vh auto;padding:0 24px;font:15px/1.5 system-ui,sans-serif}dl,dd,ol,ul,figure{margin:0;padding:0}ol,ul{list-style:none}table{border-collapse:collapse;text-align:left;font-size:13px}th,td{border-bottom:1px solid var(--rule);vertical-align:top;padding:5px 14px 5px 0}thead th{color:var(--muted);font-weight:500}tbody th{font-weight:600}caption{text-align:left;padding-bottom:8px}svg{display:block;overflow:visible}svg text{fill:var(--muted);font:11px var(--sans)}.axis{stroke:var(--muted)}.mark{stroke:var(--accent);stroke-width:1.5px}.scroll{max-height:430px;overflow:auto}.scroll thead th{background:var(--paper);position:sticky;top:0}footer{border-top:1px solid var(--rule);margin-top:56px;padding-top:22px}.top{background:var(--paper);border-bottom:1px solid var(--rule);z-index:2;justify-content:space-between;align-items:center;gap:8px 24px;padding:9px 0;display:flex;position:sticky;top:0}header{display:contents}nav a{color:var(--muted);margin-right:18px;font-size:13px;text-decoration:none;display:inline-block}nav a:hover{color:var(--accent)}label,.picked{color:var(--muted);white-space:nowrap;font-size:13px}.picked b{color:var(--ink);font-family:var(--mono);white-space:pre}.controls{flex-wrap:wrap;align-items:center;gap:8px 20px;min-height:30px;margin:0 0 14px;display:flex}button,select,input{background:var(--paper);border:1px solid var(--muted);color:var(--ink);font:13px / 1.4 var(--sans);border-radius:4px;padding:3px 9px}input[type=search]{width:15em}input[type=number]{width:5em}input[type=checkbox]{accent-color:var(--accent);vertical-align:-1px;margin:0}button{cursor:pointer}button:hover:not(:disabled){border-color:var(--accent);color:var(--accent)}button:disabled{border-color:var(--rule);color:var(--muted);cursor:default}.theme{align-items:center;gap:8px;display:flex}.pager{gap:4px;display:flex}.legend{color:var(--muted);flex-wrap:wrap;gap:4px 12px;font-size:12px;display:flex}.legend i{vertical-align:-1px;border-radius:2px;width:18px;height:12px;margin-right:5px;display:inline-block}.legend-text{color:var(--muted);margin:0;font-size:12px}.ramp{background:linear-gradient(to right, transparent, var(--tint));border:1px solid var(--rule);vertical-align:-2px;width:90px;height:12px;display:inline-block}.sides{grid-template-columns:1fr 1fr;gap:32px 40px;display:grid}.side{min-width:0}.side-name{color:var(--muted);font-size:13px}.side-name b{border:1px solid var(--muted);color:var(--ink);border-radius:3px;margin-right:4px;padding:0 6px}.verdict-sentence{text-wrap:pretty;max-width:46ch;font-size:23px;font-weight:400;line-height:1.35}.status{white-space:nowrap}.status[data-status=imbalanced],.status[data-status=collapsed]{color:var(--accent)}.figures{flex-wrap:wrap;gap:18px 44px;margin:26px 0;display:flex}.figures div{flex-direction:column-reverse;display:flex}.figures dd{font:600 26px / 1.2 var(--serif)}.figures dt{color:var(--muted);font-size:13px}summary{color:var(--muted);cursor:pointer;margin-bottom:8px;font-size:13px}.layers{min-width:880px}.layers .words{color:var(--muted);min-width:26em}.canvas-frame{cursor:crosshair;position:relative}.canvas-frame canvas{pointer-events:none;display:block}.cell-mark{border:2px solid var(--ink);outline:1px solid var(--paper);pointer-events:none;position:absolute}.readout{margin:8px 0 0;font-size:13px}.passes{margin-top:30px}.passes figcaption{max-width:68ch;margin-bottom:10px;font-size:14px}.column{fill:var(--muted)}.search{flex-wrap:wrap;align-items:center;gap:8px;margin-bottom:10px;font-size:13px;display:flex}.text-frame{border:1px solid var(--rule);border-radius:4px;padding:0 8px;position:relative;overflow-y:auto}.lines{contain:strict;position:relative}.line{gap:2px;height:28px;padding:2px 0;display:flex;position:absolute;left:0}.chip{background:color-mix(in oklab, var(--tint) calc(var(--amount,0) * 62%), transparent);cursor:pointer;font:13px / 24px var(--mono);white-space:pre;border-radius:3px;height:24px;padding:0 4px;overflow:hidden}.chip sub{color:var(--ink);font:10px / 1 var(--mono);letter-spacing:-.02em;vertical-align:-3px;margin-left:2px}.chip[data-hue=\"0\"]{background:light-dark(#cfe0f3,#23405f)}.chip[data-hue=\"1\"]{background:light-dark(#fbdcb9,#5f3d17)}.chip[data-hue=\"2\"]{background:light-dark(#cdeadd,#1c4a3b)}.chip[data-hue=\"3\"]{background:light-dark(#f3cfe0,#5a2844)}.chip[data-hue=\"4\"]{background:light-dark(#e6e2b4,#4a4714)}.chip[data-hue=\"5\"]{background:light-dark(#d9d3f2,#3c3566)}.chip[data-hue=\"6\"]{background:light-dark(#f6d0c7,#61302a)}.chip[data-hue=\"7\"]{background:light-dark(#dfdfdf,#3f4349)}.chip:hover{box-shadow:inset 0 0 0 1px var(--muted)}.chip.blank{color:var(--muted)}.chip.found{box-shadow:inset 0 -3px 0 var(--accent)}.chip[aria-selected=true]{box-shadow:inset 0 0 0 2px var(--ink)}.chip.plain{background:var(--raised);cursor:inherit;vertical-align:bottom;margin:1px 3px 1px 0;display:inline-block}.experts td{white-space:nowrap}.experts td.tokens{white-space:normal;min-width:22em}.experts tr.selected{background:var(--raised)}.experts table+button,.experts .scroll+button{margin-top:12px}.partner{margin-right:12px;display:inline-block}.partner sub{color:var(--muted);margin-left:3px;font-size:11px}.sparkline path,.sparkline rect{fill:var(--muted)}.comparison{margin-top:32px}.comparison-parts{grid-template-columns:minmax(0,1fr) minmax(0,1fr);gap:32px 40px;display:grid}.changed button{border-color:#0000;grid-template-columns:9em 6em 120px auto;place-items:center start;gap:12px;width:100%;padding:2px 4px;display:grid}.changed button[aria-pressed=true]{border-color:var(--ink)}.changed .chip{max-width:100%}.size figure{margin:24px 0 32px}.parts{gap:2px;height:56px;margin-bottom:10px;display:flex}.parts i{min-width:2px}[data-kind=idle]{background:#262b34}[data-kind=active]{background:var(--lit)}[data-kind=shared]{background:light-dark(#c58a2b,#c98d2c)}[data-kind=other]{background:light-dark(#9aa1ad,#7b828e)}.touched td{white-space:nowrap}.share{background:#262b34;max-width:420px;height:14px;margin-bottom:14px;display:block}.share i{background:var(--lit);height:100%;display:block}.touched .share{vertical-align:-2px;width:180px;margin:0 12px 0 0;display:inline-block}.limits{padding-left:18px;list-style:outside}.limits li{max-width:72ch;margin-bottom:6px}.provenance{grid-template-columns:repeat(auto-fill,minmax(220px,1fr));gap:6px 32px;font-size:13px;display:grid}.provenance dt{color:var(--muted)}.provenance dd{overflow-wrap:anywhere}.steps{border-bottom:1px solid var(--rule);flex-wrap:wrap;gap:0 6px;margin-bottom:26px;display:flex}.steps button{color:var(--muted);background:0 0;border:0;border-bottom:3px solid #0000;border-radius:0;margin-bottom:-1px;padding:8px 14px 8px 0;font-size:14px}.steps button[aria-current]{border-bottom-color:var(--accent);color:var(--ink)}.step{grid-template-columns:minmax(0,1fr) minmax(0,400px);gap:24px 48px;min-height:430px;display:grid}.sides .house{max-width:340px;position:static}.sides .step{grid-template-columns:minmax(0,1fr);align-content:start}.sentence{text-wrap:pretty;max-width:44ch;margin-bottom:18px;font-size:21px;font-weight:400;line-height:1.35}.context{background:var(--raised);font:14px / 1.7 var(--mono);white-space:pre-wrap;border-radius:4px;max-height:300px;margin:0 0 12px;padding:14px 16px;overflow:auto}.context mark{background:var(--lit);color:#1c1e22;white-space:pre;border-radius:3px;padding:2px 3px}.context .after{color:var(--muted)}.details{flex-wrap:wrap;gap:4px 28px;display:flex}.details dt{color:var(--muted);font-size:13px}.house{background:var(--night);border:1px solid var(--rule);border-radius:6px;align-self:start;padding:18px;position:sticky;top:60px}.house figcaption{color:#c9ccd2;margin-top:14px;font-size:13px}.windows{gap:4px;display:grid}.windows span{--glow:color-mix(in oklab, var(--lit) calc(var(--light) * 100%), #262b34);aspect-ratio:1;color:#9aa1ad;background:#262b34;border-radius:2px;justify-content:center;align-items:center;width:100%;min-width:0;transition:background-color .35s;display:flex}.windows [data-state=waiting]{color:#d5d8dd;background:#3a414d}.windows [data-state=glow],.windows [data-state=lit]{background:var(--glow);color:#fff}.windows [data-bright]{color:#14171d}.windows [data-chosen]{font-weight:700;box-shadow:0 0 0 2px #fff}.windows [data-state=masked]{background:repeating-linear-gradient(135deg,#262b34 0 3px,#1a1e25 3px 6px)}.windows [data-state=idle]{color:#868d99;background:#1b1f26}.windows [data-state=dropped]{box-shadow:0 0 0 2px var(--lit);color:#fff;background:#1b1f26}.chart{max-width:640px;margin:0 0 14px}.bar.in,rect.in{fill:var(--accent)}.bar.out,rect.out{fill:light-dark(#aeb3bc,#565d69)}.bar.masked,rect.masked{fill:none;stroke:light-dark(#aeb3bc,#565d69);stroke-dasharray:2 2}.tick{fill:var(--ink)}.even{stroke:var(--ink);stroke-dasharray:4 4}.scores{margin-bottom:14px}.scores td,.scores th{padding:3px 26px 3px 0}.scores .in td{font-weight:600}.scores .out td{color:var(--muted)}.scores .in+.out td{border-top:2px solid var(--accent)}.formula{color:var(--muted);font:12px / 1.5 var(--mono)}.picks{flex-wrap:wrap;gap:8px;margin-bottom:18px;display:flex}.picks li{border:1px solid var(--rule);border-radius:4px;padding:5px 10px;font-size:13px}.picks b{font-size:17px}.picks span{color:var(--muted);margin-left:8px}.picks .dropped{border-style:dashed}.big{font:400 17px / 1.2 var(--serif);margin-bottom:10px}.big b{font-size:44px}.together div{grid-template-columns:10em minmax(0,1fr);gap:0 12px;margin-bottom:8px;display:grid}.together dt{padding-top:4px;font-size:13px}.weights{gap:2px;max-width:640px;height:36px;margin-bottom:16px;display:flex}.weights span{background:var(--lit);color:#14171d;flex-basis:0;justify-content:center;align-items:center;min-width:2px;font-size:12px;font-weight:600;display:flex;overflow:hidden}.turn{border-top:1px solid var(--rule);color:var(--muted);align-items:center;gap:18px;margin-top:24px;padding-top:14px;font-size:13px;display:flex}.turn button{padding:6px 18px;font-size:15px}@media (width<=820px){.page{padding:0 16px 48px}h1{margin-top:24px;font-size:28px}.sides,.comparison-parts,.step{grid-template-columns:minmax(0,1fr)}.house{position:static}.top nav{overflow-x:auto}nav a{margin-right:12px}.top nav{white-space:nowrap}.theme span{display:none}.steps button{padding-right:8px;font-size:13px}.verdict-sentence{font-size:20px}.figures{gap:14px 28px}.touched .share{width:110px;margin-bottom:4px;display:block}.changed button{grid-template-columns:7em 5em 1fr}.together div{grid-template-columns:minmax(0,1fr)}}@media (prefers-reduced-motion:no-preference){:root{scroll-behavior:smooth}}@media (prefers-reduced-motion:reduce){.windows span{transition:none}}@media (forced-colors:active){.windows span,.chip,.parts i,.share i,.weights span{forced-color-adjust:none}}@media print{:root{--paper:#fff}:root,.page[data-theme]{color-scheme:light}.page{-webkit-print-color-adjust:exact;print-color-adjust:exact;max-width:none;padding:0;font-size:11px}.top,.cell-mark,.steps,.controls,.search,.turn,.pager,button:not(.steps button,.experts button,.changed button){display:none}.canvas-frame canvas,.chart svg{max-width:100%;height:auto!important}h2{break-after:avoid}.lines{contain:none}.line{position:static}.scroll{max-height:none;overflow:visible}.step{break-inside:avoid;grid-template-columns:minmax(0,1fr) 200px;min-height:0;margin-bottom:24px}.house{padding:10px;position:static}main>section{margin-top:28px}figure,tr,.line{break-inside:avoid}}";
// src/widget.tsx
function ac({ model: e, el: t }) {
	let n = t.attachShadow({ mode: "open" }), r = document.createElement("style");
	r.textContent = ic;
	let i = document.createElement("div");
	n.append(r, i);
	let a = async () => {
		let t = e.get("payload");
		t?.byteLength && j(/* @__PURE__ */ R(Us, { payload: Qs(await Zs(new Uint8Array(t.buffer, t.byteOffset, t.byteLength))) }, Date.now()), i);
	};
	return a(), e.on("change:payload", a), () => {
		e.off("change:payload", a), j(null, i);
	};
}
var oc = { render: ac };
export { oc as default };
